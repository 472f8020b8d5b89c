"""Rotation without a restart: the file with the keys of services."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.auth import service_file
from gateway.auth.service_file import ServiceKeyFile, read_key_file
from gateway.auth.service_keys import BadServiceKeys, Service
from tests.support.signed import KEYS, new_key
from tests.support.waiting import eventually

OLD, NEW = f"tills:{KEYS['old']}\n", f"tills:{KEYS['new']}\n"


class Kept:
    """The file, and what was handed on of it."""

    def __init__(self, path: Path, text: str = OLD, **options: Any) -> None:
        self.path = path
        self.services: list[Mapping[str, Service]] = []
        path.write_text(text)
        self.file = ServiceKeyFile(path, self.services.append, **{"settle_s": 0.0, **options})

    @property
    def keys(self) -> int:
        return len(self.services[-1]["tills"].keys)

    def reads(self) -> Any:
        return self.file.statistics()["gateway_service_key_reads"]


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "keys")


async def test_what_has_not_changed_is_not_handed_on(kept: Kept) -> None:
    os.utime(kept.path, (1, 1))
    assert not await kept.file.refresh()
    assert len(kept.services) == 1


@pytest.mark.parametrize("way", ["in place", "moved there", "linked as Kubernetes does"])
async def test_a_new_content_is(tmp_path: Path, way: str) -> None:
    kept = Kept(tmp_path / "plain")
    if way == "linked as Kubernetes does":
        for name, text in (("..1", OLD), ("..2", OLD + NEW)):
            (tmp_path / name).mkdir()
            (tmp_path / name / "keys").write_text(text)
        (tmp_path / "..data").symlink_to("..1")
        (tmp_path / "keys").symlink_to("..data/keys")
        kept.file = ServiceKeyFile(tmp_path / "keys", kept.services.append, settle_s=0)
        (tmp_path / "..new").symlink_to("..2")
        (tmp_path / "..new").rename(tmp_path / "..data")
    elif way == "moved there":
        (tmp_path / "new").write_text(OLD + NEW)
        (tmp_path / "new").rename(kept.path)
    else:
        kept.path.write_text(OLD + NEW)
    assert kept.keys == 1
    with capture_logs() as lines:
        assert await kept.file.refresh()
    assert kept.keys == 2
    assert [(line["event"], line["services"], line["keys"]) for line in lines] == [
        ("service keys read", 1, 2)
    ]
    assert not await kept.file.refresh()
    assert kept.reads() == {"success": 1, "failure": 0}


async def test_of_the_same_length_and_time(kept: Kept) -> None:
    stat = kept.path.stat()
    kept.path.write_text(NEW)
    os.utime(kept.path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert await kept.file.refresh()


BROKEN: Mapping[str, bytes | None] = {
    "gone": None,
    "empty": b"",
    "no key": b"tills:vendor=V",
    "a third key": (OLD + NEW + f"tills:{new_key()}").encode(),
    "no text": b"\xff\xfe",
    "too large": b"#" * (1024 * 1024 + 1),
}


@pytest.mark.parametrize("how", BROKEN)
async def test_a_broken_one_keeps_the_old_keys(kept: Kept, how: str) -> None:
    content = BROKEN[how]
    if content is None:
        kept.path.unlink()
    else:
        kept.path.write_bytes(content)
    with capture_logs() as lines:
        for _ in range(3):
            assert not await kept.file.refresh()
    assert [line["event"] for line in lines] == ["service keys can not be read; the old ones stay"]
    assert "whsec_" not in str(lines)
    assert len(kept.services) == 1
    assert kept.reads() == {"success": 0, "failure": 3}
    kept.path.write_text(NEW)
    assert await kept.file.refresh()
    assert len(kept.services) == 2


async def test_each_way_of_being_broken_is_told_once(kept: Kept) -> None:
    with capture_logs() as lines:
        for text in ("", "x", "x", OLD, ""):
            kept.path.write_text(text)
            assert not await kept.file.refresh()
    assert len(lines) == 3  # the last one is news again: it was mended meanwhile


async def test_half_a_file_is_not_taken(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes in place is waited for: half of it may be in order, with a service or a key missing."""
    parts = iter([OLD + NEW, OLD + NEW + f"billing:{KEYS['other']}"])

    def read_while_written(path: Path) -> bytes:
        data = read_key_file(path)
        path.write_text(next(parts, path.read_text()))
        return data

    kept.path.write_text("tills:")
    monkeypatch.setattr(service_file, "read_key_file", read_while_written)
    assert not await kept.file.refresh()
    assert len(kept.services) == 1
    assert await kept.file.refresh()
    assert set(kept.services[-1]) == {"tills", "billing"}


async def test_it_is_looked_at_again_and_again(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "keys", poll_s=0.01)
    changed: list[int] = []
    task = asyncio.create_task(kept.file.run(lambda: changed.append(kept.keys)))
    try:
        for text, keys in ((OLD + NEW, [2]), (NEW, [2, 1])):
            kept.path.write_text(text)
            await eventually(lambda keys=keys: changed == keys)  # type: ignore[misc]
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("how", BROKEN)
def test_at_the_start_a_broken_one_is_an_error(tmp_path: Path, how: str) -> None:
    path, content = tmp_path / "keys", BROKEN[how]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadServiceKeys):
        ServiceKeyFile(path, lambda _: None)
