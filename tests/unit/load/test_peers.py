import ast
import asyncio
import json
import re
from contextlib import closing
from pathlib import Path

import pytest

import load.peers
from load.children import StackFailed
from load.peers import PEERS
from load.peers.nchan import modules_directory
from load.peers.peer import PAYLOAD_KIND, Poster, find_program, payload_of
from load.sink_worker import KIND_AT


@pytest.mark.parametrize("size", [25, 100, 336, 70_000])
def test_a_payload_has_the_size_and_counts_as_a_delta(size: int) -> None:
    payload = payload_of(size)
    assert len(payload) == size
    assert json.loads(payload)["type"] == "delta"
    assert chr(payload[KIND_AT]) == PAYLOAD_KIND


def test_a_payload_can_not_be_shorter_than_its_form() -> None:
    with pytest.raises(ValueError, match="at least 25 bytes"):
        payload_of(24)


def test_nginx_tells_where_its_modules_are() -> None:
    said = (
        "nginx version: nginx/1.22.1\nconfigure arguments: --conf-path=/etc --modules-path=/usr/lib/n/m --x\n"
    )
    assert modules_directory(said) == Path("/usr/lib/n/m")
    assert modules_directory("nginx version: nginx/1.22.1\n") is None


def test_programs_are_found_on_the_path_and_where_go_and_debian_put_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "more" / "server"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setattr("load.peers.peer._MORE_PLACES", (tmp_path / "none", program.parent))
    assert find_program("server") == str(program)
    assert find_program("no-such-server") is None
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setattr("load.peers.peer._MORE_PLACES", ())
    assert find_program("server") == str(program)


def test_every_peer_has_a_name_of_its_own_and_one_line_that_installs_it() -> None:
    names = [peer.name for peer in PEERS]
    assert len(set(names)) == len(names)
    for peer in PEERS:
        assert peer.how.startswith(("pip install ", "apt-get install ", "npm install ", "go install "))
        assert "\n" not in peer.how + peer.remark


def test_a_peer_that_is_not_installed_does_not_stop_the_registry() -> None:
    """Packages that only a comparison needs are imported where they are used."""
    optional = {"aiofastnet", "picows", "wsproto"}
    for path in Path(load.peers.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                assert optional.isdisjoint(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.module not in optional


class TestPublishingByRequests:
    """Against a server that notes connections and bodies, and refuses what is bad."""

    @staticmethod
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bodies: list[bytes]) -> None:
        bodies.append(b"(connected)")
        while head := await _head(reader):
            bodies.append(
                await reader.readexactly(int(re.findall(rb"content-length: (\d+)", head.lower())[0]))
            )
            status = b"500 Oops" if bodies[-1] == b"bad" else b"204 No Content"
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async def test_keeps_a_connection_and_does_not_trust_one_that_was_idle(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        got: list[bytes] = []
        server = await asyncio.start_server(
            lambda reader, writer: self.serve(reader, writer, got), "127.0.0.1", 0
        )
        async with server:
            poster = Poster(server.sockets[0].getsockname()[1], "/publish")
            with closing(poster):
                await poster.post(b"1")
                await poster.post(b"2")
                monkeypatch.setattr("load.peers.peer._KEEP_S", -1.0)
                await poster.post(b"3")
        assert got == [b"(connected)", b"1", b"2", b"(connected)", b"3"]

    async def test_an_answer_that_is_no_success_is_an_error(self) -> None:
        server = await asyncio.start_server(
            lambda reader, writer: self.serve(reader, writer, []), "127.0.0.1", 0
        )
        async with server:
            poster = Poster(server.sockets[0].getsockname()[1], "/publish")
            with closing(poster), pytest.raises(StackFailed, match="500"):
                await poster.post(b"bad")


async def _head(reader: asyncio.StreamReader) -> bytes:
    """Empty when the client has left."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
