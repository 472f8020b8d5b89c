"""The two servers of `dev` and their files."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from gateway.errors import CommandFailed
from gateway.sample.groups import one_error
from listeners.embedded import (
    EmbeddedError,
    EmbeddedServer,
    PostgresServer,
    ValkeyServer,
    reachable_data_dir,
)
from listeners.embedded.directories import make_directory
from listeners.embedded.lock import DirectoryLock
from listeners.embedded.process import wait_until

__all__ = ["dev_servers", "hold_directory", "told_in_one_line", "wipe"]

# What a crash of the machine can take back are the last sales of a sample shop, so no commit waits for the
# disk; fsync stays on, or it could break the whole cluster. Large shops are seeded without checkpoints.
_POSTGRES: Final = {"synchronous_commit": "off", "max_wal_size": "4GB", "jit": "off"}
# Servers of a `dev` that was killed are being stopped by their guards.
_LOCK_WAIT_S: Final = 15.0


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """Raises CommandFailed for an EmbeddedError, also for one in a group."""
    try:
        with one_error():
            yield
    except EmbeddedError as error:
        raise CommandFailed(str(error)) from error


@contextmanager
def hold_directory(data_dir: Path) -> Iterator[None]:
    """The data directory belongs to this process alone meanwhile. Raises EmbeddedError."""
    make_directory(data_dir)
    lock = DirectoryLock(data_dir)
    if not lock.acquire_nowait():
        raise EmbeddedError(f"{data_dir} is in use by a process that is ending: try again")
    try:
        yield
    finally:
        lock.release()


async def wipe(data_dir: Path) -> None:
    """Delete the servers' data, and nothing else that may lie there. The caller holds the directory.

    Raises EmbeddedError.
    """
    for directory in {_postgres_dir(data_dir), data_dir / "postgres", data_dir / "valkey"}:
        if not directory.exists():
            continue
        lock = DirectoryLock(directory)
        if not await wait_until(lock.acquire_nowait, _LOCK_WAIT_S, interval_s=0.05):
            raise EmbeddedError(f"{directory} is locked by a server that does not stop: stop it by hand")
        try:
            await asyncio.to_thread(shutil.rmtree, directory)
        except OSError as error:
            raise EmbeddedError(f"{directory} can not be deleted: {error.strerror}") from error
        finally:
            lock.release()


@asynccontextmanager
async def dev_servers(data_dir: Path) -> AsyncIterator[tuple[PostgresServer, ValkeyServer]]:
    """Both servers, started side by side. Raises EmbeddedError with nothing left running."""
    servers = (
        PostgresServer(_postgres_dir(data_dir), settings=_POSTGRES),
        ValkeyServer(data_dir / "valkey"),
    )
    async with AsyncExitStack() as stack:
        for server in servers:
            stack.push_async_callback(server.stop)
        with one_error():
            async with asyncio.TaskGroup() as tasks:
                for server in servers:
                    tasks.create_task(_start(server))
        yield servers


async def _start(server: EmbeddedServer) -> None:
    await server.start()


def _postgres_dir(data_dir: Path) -> Path:
    """Elsewhere for root whose data directory `nobody` can not reach."""
    return reachable_data_dir(data_dir / "postgres")
