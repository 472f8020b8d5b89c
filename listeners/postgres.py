import asyncio
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, Final

import asyncpg

from listeners.errors import Refused, Unavailable
from listeners.tls import tls_refusal

__all__ = [
    "APPLICATION_NAME",
    "LOCK_ATTACH",
    "LOCK_MIGRATE",
    "LOCK_RELAY",
    "MINIMUM_VERSION",
    "NOTIFY_CHANNEL",
    "TRANSIENT_ERRORS",
    "Connection",
    "both_connected",
    "brief_transaction",
    "classified",
    "classify",
    "close",
    "connect",
    "connected",
    "probe",
    "redact_dsn",
    "set_deadlines",
    "transaction",
]

MINIMUM_VERSION: Final = 14
APPLICATION_NAME: Final = "inventory-gateway"
NOTIFY_CHANNEL: Final = "gateway_wake"

# Advisory locks are numbers that a whole database shares; ours spell "gateway" and a running number.
LOCK_RELAY: Final = int.from_bytes(b"gateway\x01")
LOCK_MIGRATE: Final = int.from_bytes(b"gateway\x02")
LOCK_ATTACH: Final = int.from_bytes(b"gateway\x03")

# A peer that is gone is noticed after 5 + 3 * 5 s without traffic, and after USER_TIMEOUT_MS with some.
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 5, "TCP_KEEPALIVE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_USER_TIMEOUT_MS: Final = 10_000

_ROLLBACK_S: Final = 1.0
_BRIEF: Final = "SET LOCAL idle_in_transaction_session_timeout = '3s'; SET LOCAL lock_timeout = '3s'"

TRANSIENT_ERRORS: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # asyncpg has lost its place when a link dies in the middle of something
)
"""Whatever a conversation with Postgres may raise; `classify` tells what it means."""

_REFUSALS: Final = (
    asyncpg.InvalidAuthorizationSpecificationError,  # 28xxx: no such role, wrong password, pg_hba
    asyncpg.InvalidCatalogNameError,  # no such database
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedTableError,  # the schema is not ours, or not migrated
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.UndefinedObjectError,  # among others: a parameter in the URL that Postgres does not know
    asyncpg.exceptions.ClientConfigurationError,
)


class Connection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """A connection that notices a dead peer: asyncpg itself sets no keepalive."""

    __slots__ = ()

    def __init__(self, protocol: Any, transport: asyncio.Transport, *args: Any) -> None:
        super().__init__(protocol, transport, *args)
        try:
            set_deadlines(transport.get_extra_info("socket"))
        except OSError:
            self.terminate()  # the link is gone already, and nobody else knows of this connection
            raise

    def itself(self) -> "Connection":
        """Also through a pool's proxy, which is another object every time."""
        return self


def set_deadlines(link: Any) -> None:
    if link is None or link.family not in (socket.AF_INET, socket.AF_INET6):
        return  # a Unix socket has no peer that vanishes silently
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():  # macOS calls the first one TCP_KEEPALIVE
        if hasattr(socket, name):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux only
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)


async def connect(
    dsn: str, *, purpose: str, timeout_s: float = 5.0, command_timeout_s: float = 30.0
) -> Connection:
    """A dedicated connection; `purpose` is told to the server as part of the application name.

    Statements are prepared once and kept: their result types are ours and fixed by casts, so a change of the
    shop's schema can not invalidate them (listeners.pool is the other way about).
    Raises Unavailable or Refused, also for a server older than MINIMUM_VERSION.
    """
    with classified(dsn):
        connection: Connection = await asyncpg.connect(
            dsn,
            timeout=timeout_s,
            command_timeout=command_timeout_s,
            max_cached_statement_lifetime=0,
            max_cacheable_statement_size=0,
            connection_class=Connection,
            server_settings={"application_name": f"{APPLICATION_NAME} {purpose}"},
        )
    found = connection.get_server_version()
    if found.major < MINIMUM_VERSION:
        await close(connection)
        raise Refused(f"Postgres {MINIMUM_VERSION} or newer is needed, {redact_dsn(dsn)} runs {found.major}")
    return connection


@asynccontextmanager
async def connected(dsn: str, *, purpose: str, timeout_s: float = 5.0) -> AsyncIterator[Connection]:
    """`connect`, closed at the end whatever happened."""
    connection = await connect(dsn, purpose=purpose, timeout_s=timeout_s)
    try:
        yield connection
    finally:
        await close(connection)


async def close(connection: Connection, *, timeout_s: float = 1.0) -> None:
    """Close it; a frozen server is not waited for longer than `timeout_s`."""
    try:
        await connection.close(timeout=timeout_s)
    except TRANSIENT_ERRORS:
        connection.terminate()


@asynccontextmanager
async def both_connected(
    *ends: tuple[str, str], timeout_s: float = 5.0
) -> AsyncIterator[tuple[Connection, Connection]]:
    """Two connections, each by its DSN and purpose, closed side by side at the end."""
    async with AsyncExitStack() as stack:
        links: list[Connection] = []

        async def close_all() -> None:
            try:
                await asyncio.gather(*(close(link) for link in links))
            finally:  # a cancellation that comes at once ends tasks that have not begun to close anything
                for link in links:
                    if not link.is_closed():
                        link.terminate()

        stack.push_async_callback(close_all)
        for dsn, purpose in ends:
            links.append(await connect(dsn, purpose=purpose, timeout_s=timeout_s))
        one, other = links
        yield one, other


@asynccontextmanager
async def transaction(connection: Any, **options: Any) -> AsyncIterator[None]:
    """asyncpg's, but left in time: if the rollback is not answered, the connection is closed instead.

    asyncpg would wait for it as long as for any command, also in a task that was cancelled.
    """
    work = connection.transaction(**options)
    await work.start()
    try:
        yield
    except BaseException:
        try:
            async with asyncio.timeout(_ROLLBACK_S):
                await work.rollback()
        except TRANSIENT_ERRORS:
            connection.terminate()
        raise
    await work.commit()


@asynccontextmanager
async def brief_transaction(connection: Any) -> AsyncIterator[None]:
    """For what locks rows or tables that others need: should this process freeze or its link die in the
    middle, the server ends the transaction soon. Nor does it wait longer than that for others' locks.

    Raises asyncpg.LockNotAvailableError then. SET LOCAL, for behind a transaction-pooling PgBouncer a session
    belongs to everybody.
    """
    async with transaction(connection):
        await connection.execute(_BRIEF)
        yield


async def probe(connection: Any, *, timeout_s: float) -> None:
    """Raises Unavailable unless the server answers in time: a frozen backend raises nothing by itself."""
    with classified():
        await connection.fetchval("SELECT 1", timeout=timeout_s)


@contextmanager
def classified(dsn: str = "") -> Iterator[None]:
    """Turns the errors of asyncpg and the network into Unavailable or Refused."""
    try:
        yield
    except TRANSIENT_ERRORS as error:
        raise classify(error, dsn) from error


def classify(error: BaseException, dsn: str = "") -> Unavailable | Refused:
    """What an error of asyncpg or the network means: try again, or call an operator.

    The message is one line, names the server and carries no password.
    """
    where = f"Postgres at {redact_dsn(dsn)}" if dsn else "Postgres"
    what = " ".join(str(error).split()) or type(error).__name__
    refusal = tls_refusal(error)
    if refusal is not None:
        return Refused(f"{where}: {refusal}")
    if isinstance(error, _REFUSALS):
        hint = "; run `migrate`" if isinstance(error, asyncpg.UndefinedTableError) else ""
        return Refused(f"{where} refuses: {what}{hint}")
    if isinstance(error, TimeoutError):
        return Unavailable(f"{where} did not answer in time")
    return Unavailable(f"{where}: {what}")


# The password ends at the last @ of the word: people do not always escape what they should. Rather too much.
_USERINFO: Final = re.compile(r"(\w[\w+.-]*://[^\s:/@]*:)\S*(@)")
_PARAMETER: Final = re.compile(r"((?:ssl)?password\s*=\s*)[^&\s]+", re.IGNORECASE)


def redact_dsn(dsn: str) -> str:
    """The DSN without its passwords, for logs and messages. It never raises, however broken the DSN is."""
    return _PARAMETER.sub(r"\1***", _USERINFO.sub(r"\1***\2", dsn))
