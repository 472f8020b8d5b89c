import asyncio
import contextlib
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import asyncpg

from listeners.embedded import guard
from listeners.embedded.binaries import postgres_install
from listeners.embedded.directories import Account, first_closed, unprivileged
from listeners.embedded.errors import EmbeddedError
from listeners.embedded.process import Child, Program
from listeners.embedded.server import EmbeddedServer, PortTakenError

__all__ = ["PostgresServer", "embedded_postgres"]

# Not `gateway`: a role of that name would have our schema first in its search_path ("$user").
_USER = "shop"
_NO_SETTINGS: Final[Mapping[str, str]] = MappingProxyType({})
# Names that go into SQL and URLs as they are.
_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


class PostgresServer(EmbeddedServer):
    """Postgres on 127.0.0.1 for development and tests.

    Everybody on this machine may log in as its superuser: authentication is `trust`, and it listens on the
    loopback address alone. Not for data that must be kept from other users of the machine.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int = 0,
        settings: Mapping[str, str] = _NO_SETTINGS,
        database: str = "shop",
        timeout_s: float = 60.0,
    ) -> None:
        if not _PLAIN_NAME.fullmatch(database):
            raise EmbeddedError(f"the database name {database!r} is not of a-z, 0-9 and _")
        super().__init__(data_dir, port=port, timeout_s=timeout_s)
        self.cluster = self.data_dir / "cluster"
        self._settings = settings
        self._database = database
        self._account: Account | None = None
        self._install = Path()

    @property
    def url(self) -> str:
        return self._url(self._database)

    def _url(self, database: str) -> str:
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{database}"

    async def _prepare(self) -> None:
        self._account = unprivileged()
        if self._account is not None:
            closed = first_closed(self.data_dir, self._account)
            if closed is not None:
                raise EmbeddedError(
                    f"Postgres runs as `{self._account.name}`, who can not reach {self.data_dir} "
                    f"through {closed}: use another data directory or chmod o+x {closed}"
                )
        self._install = await asyncio.to_thread(postgres_install, self._account)
        if not self.cluster.exists():
            await self._initialise()
        self._check_cluster()

    async def _initialise(self) -> None:
        """initdb beside the final place: a cluster that exists is a complete one."""
        unfinished = self.data_dir / "cluster.unfinished"
        if unfinished.exists():
            await asyncio.to_thread(shutil.rmtree, unfinished)
        unfinished.mkdir(mode=0o700)
        if self._account is not None:
            os.chown(unfinished, self._account.uid, self._account.gid)
        # One fixed locale: no two machines sort differently. No sync where the caller wants none.
        child = await Child.start(
            self._as_account(
                "initdb",
                *("-D", str(unfinished), "-U", _USER, "--auth=trust", "--encoding=UTF8"),
                *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
                *(["--no-sync"] if self._settings.get("fsync") == "off" else []),
            ),
            self._lock,
        )
        try:
            await child.wait_ended(self._timeout_s)
        finally:
            await child.stop(0)
        if child.returncode != 0:
            raise EmbeddedError(f"Postgres could not make {self.cluster}: {_reason(self._log())}")
        unfinished.rename(self.cluster)

    def _check_cluster(self) -> None:
        try:
            version = (self.cluster / "PG_VERSION").read_text().strip()
            owner = self.cluster.stat().st_uid
        except OSError as error:
            raise EmbeddedError(
                f"{self.cluster} is no readable Postgres data directory ({error.strerror}): "
                f"delete {self.data_dir} or use another"
            ) from None
        ours = os.geteuid() if self._account is None else self._account.uid
        if owner != ours:
            raise EmbeddedError(
                f"{self.cluster} belongs to another user (uid {owner}, not {ours}): delete {self.data_dir}, "
                "chown it or use another"
            )
        if not re.fullmatch(r"\d+(\.\d+)?", version):
            raise EmbeddedError(f"{self.cluster}/PG_VERSION is broken: delete {self.data_dir} or use another")

    def _program(self) -> Program:
        self._forget_dead_postmaster()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "dynamic_shared_memory_type": "mmap",  # a killed server leaves nothing outside its directory
        } | dict(self._settings)
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return self._as_account("postgres", "-D", str(self.cluster), *options)

    def _as_account(self, name: str, *args: str) -> Program:
        return Program(
            argv=(str(self._install / "bin" / name), *args),
            log=self.log_path,
            # SIGTERM would wait for clients to leave (Postgres manual, "Shutting Down the Server").
            stop_signal=signal.SIGINT,
            user=None if self._account is None else self._account.uid,
            group=None if self._account is None else self._account.gid,
        )

    def _forget_dead_postmaster(self) -> None:
        """Remove a postmaster.pid whose number another program has by now, as after a container's restart.

        Postgres would refuse to start. We hold the lock, so nobody else starts one here.
        """
        pid, _ = self._postmaster()
        if pid and guard.process_name(pid) != "postgres":
            (self.cluster / "postmaster.pid").unlink(missing_ok=True)

    def _postmaster(self) -> tuple[int, str]:
        """pid and status as its postmaster.pid says (lines 1 and 8, see pidfile.h); (0, "") without one."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            lines = (self.cluster / "postmaster.pid").read_text().splitlines()
            if lines:
                return int(lines[0]), lines[7].strip() if len(lines) > 7 else ""
        return 0, ""

    async def _answers(self) -> bool:
        if self._postmaster() != (self.pid, "ready"):
            return False
        try:
            connection = await asyncpg.connect(self._url("postgres"), timeout=5.0, ssl=False)
        except (OSError, asyncpg.PostgresError):
            return False  # ready and gone again; the caller looks at the process
        try:
            known = await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", self._database)
            if not known:
                await connection.execute(f'CREATE DATABASE "{self._database}"')
        finally:
            await connection.close(timeout=5.0)
        return True

    def _why_it_ended(self, log: str) -> EmbeddedError:
        if "could not bind" in log or "could not create any TCP/IP sockets" in log:
            return PortTakenError(f"port {self.port} is in use: stop what listens there or use another port")
        if "incompatible with server" in log:
            return EmbeddedError(
                f"{self.data_dir} was made by another version of Postgres: delete it or use another"
            )
        return EmbeddedError(
            f"Postgres did not start on {self.data_dir}: {_reason(log)}; see {self.log_path}, "
            "or delete the directory to begin again"
        )


def _reason(log: str) -> str:
    """The line of a Postgres log that says why."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    grave = [line for line in lines if re.search(r"\b(FATAL|PANIC|error):", line)]
    return (grave or lines or ["no reason given"])[-1]


@contextlib.asynccontextmanager
async def embedded_postgres(
    data_dir: Path,
    *,
    port: int = 0,
    settings: Mapping[str, str] = _NO_SETTINGS,
    database: str = "shop",
    timeout_s: float = 60.0,
) -> AsyncIterator[PostgresServer]:
    """Postgres on a data directory that is made if need be; port 0 takes a free one.

    `settings` are server settings as of postgresql.conf. Raises EmbeddedError.
    """
    server = PostgresServer(data_dir, port=port, settings=settings, database=database, timeout_s=timeout_s)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
