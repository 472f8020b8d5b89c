import asyncio
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from listeners.embedded import EmbeddedServer, PostgresServer, ValkeyServer
from listeners.embedded.directories import first_closed, unprivileged

__all__ = [
    "POSTGRES_SETTINGS",
    "HasUrl",
    "UsersServer",
    "in_own_loop",
    "postgres_for_session",
    "remove_leftovers",
    "server_directory",
    "valkey_for_session",
]

T = TypeVar("T")

_PREFIX = "inventory-gateway-test-"

POSTGRES_SETTINGS: Final = {
    # Durability against a crash of the machine is not tested; a crash of the server loses nothing of this.
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_prepared_transactions": "0",
    "wal_level": "logical",
    "shared_buffers": "64MB",
}


class HasUrl(Protocol):
    """What a test may know of a session's server: it may be the user's own."""

    @property
    def url(self) -> str: ...


@dataclass(frozen=True)
class UsersServer:
    url: str


def in_own_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run it in a thread with an event loop of its own: session fixtures outlive the loops of the tests."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


@contextmanager
def server_directory() -> Iterator[Path]:
    """A directory for a server's data, gone afterwards.

    Not pytest's tmp_path: that is closed to `nobody`, whom Postgres runs as under root.
    """
    path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_open_base()))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _open_base() -> Path:
    account = unprivileged()
    bases = [Path(tempfile.gettempdir()), Path("/var/tmp"), Path("/tmp")]
    return next(base for base in bases if account is None or first_closed(base, account) is None)


def remove_leftovers(*, older_than_s: float = 600.0) -> None:
    """Remove the directories of sessions that were killed: of ours, those whose lock nobody holds."""
    for path in _open_base().glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if path.stat().st_uid != os.geteuid() or time.time() - path.stat().st_mtime < older_than_s:
                continue
            with (path / "lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)


@contextmanager
def _running(server: EmbeddedServer) -> Iterator[None]:
    in_own_loop(server.start())
    try:
        yield
    finally:
        in_own_loop(server.stop())


@contextmanager
def postgres_for_session() -> Iterator[HasUrl]:
    if url := os.environ.get("GATEWAY_TEST_DATABASE_URL"):
        yield UsersServer(url)
        return
    remove_leftovers()
    with server_directory() as directory:
        server = PostgresServer(directory, settings=POSTGRES_SETTINGS)
        with _running(server):
            yield server


@contextmanager
def valkey_for_session() -> Iterator[HasUrl]:
    if url := os.environ.get("GATEWAY_TEST_REDIS_URL"):
        yield UsersServer(url)
        return
    with server_directory() as directory:
        server = ValkeyServer(directory)
        with _running(server):
            yield server
