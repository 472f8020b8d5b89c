"""The programs that come with Postgres: copies of a running server, dumps and their restore."""

import asyncio
import os
import subprocess
from functools import partial
from pathlib import Path
from typing import Final

from listeners.embedded import PostgresServer
from listeners.embedded.binaries import postgres_install
from listeners.embedded.directories import unprivileged
from tests.support.servers import POSTGRES_SETTINGS

__all__ = ["dump", "make_standby", "restore"]

_TIMEOUT_S: Final = 60.0


async def dump(url: str, file: Path) -> None:
    """Everything in the database, as `restore` reads it."""
    await _run("pg_dump", "--format=custom", "--compress=0", f"--file={file}", f"--dbname={url}")


async def restore(file: Path, url: str, *options: str) -> None:
    """`options` of pg_restore. Raises AssertionError with what it says when it fails."""
    await _run("pg_restore", "--exit-on-error", *options, f"--dbname={url}", str(file))


async def make_standby(primary_port: int, directory: Path) -> PostgresServer:
    """A hot standby in an empty directory, running; it follows, asynchronously, who listens on the port.

    The caller stops it.
    """
    cluster = directory / "cluster"
    cluster.mkdir(mode=0o700)
    account = unprivileged()
    if account is not None:
        os.chown(cluster, account.uid, account.gid)
    await _run(
        "pg_basebackup",
        f"--dbname=postgresql://shop@127.0.0.1:{primary_port}/postgres",
        f"--pgdata={cluster}",
        *("--write-recovery-conf", "--checkpoint=fast", "--no-sync"),
        user=None if account is None else account.uid,
    )
    return await PostgresServer(directory, settings=POSTGRES_SETTINGS).start()


async def _run(program: str, *arguments: str, user: int | None = None) -> None:
    command = [str(postgres_install(unprivileged()) / "bin" / program), *arguments]
    # Not by the loop: uvloop starts no process as another user.
    ended = await asyncio.to_thread(
        partial(
            subprocess.run, command, user=user, env={}, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    )
    assert ended.returncode == 0, f"{program}: {ended.stderr}"
