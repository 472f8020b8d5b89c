import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import asyncpg

from listeners.attach import attach, registered
from listeners.capture_sql import checksum as source_checksum
from listeners.errors import MigrationError
from listeners.postgres import LOCK_MIGRATE, connected
from listeners.roles import make_roles, renew_grants
from listeners.short_locks import NeverFree, with_short_locks
from listeners.sources import default_sources

__all__ = ["MIGRATIONS", "Migration", "MigrationError", "migrate", "pending", "read_migrations"]

MIGRATIONS: Final = Path(__file__).parent
_SHOP_TABLES: Final = ("vendors", "products", "locations", "inventory")
_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


class Migration(NamedTuple):
    set: str
    number: int
    name: str
    sql: str

    @property
    def title(self) -> str:
        return f"{self.set}/{self.number:04d}_{self.name}"

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def read_migrations(directory: Path = MIGRATIONS) -> list[Migration]:
    """The files of the sets `gateway` and `shop`, in the order in which they are applied.

    Raises MigrationError for a gap in the numbers.
    """
    found = []
    for name in ("gateway", "shop"):
        for expected, file in enumerate(sorted((directory / name).glob("*.sql")), 1):
            match = _FILE_NAME.fullmatch(file.name)
            if match is None or int(match[1]) != expected:
                raise MigrationError(f"{name}/{file.name}: number {expected:04d} is expected here")
            found.append(Migration(name, expected, match[2], file.read_text(encoding="utf-8")))
    return found


async def migrate(
    dsn: str,
    *,
    shop: bool = True,
    notify: Literal["auto", "off"] | None = None,
    roles: str | None = None,
    directory: Path = MIGRATIONS,
    lock_timeout_ms: int = 30_000,
) -> list[str]:
    """Apply what is missing, and attach the default sources. Returns the names of what was applied now.

    Whether the database has the reference shop is decided by the first run and kept. Each file is applied in
    a transaction of its own; another `migrate` at the same time waits. `roles`: what the names of the roles
    begin with that are to be made as well (listeners.roles). Raises MigrationError, SourceError,
    Refused and Unavailable.
    """
    migrations = read_migrations(directory)
    async with connected(dsn, purpose="migrate") as conn, _one_at_a_time(conn, lock_timeout_ms):
        shop = await _decide_shop(conn, shop)
        applied = []
        for migration in await _missing(conn, migrations, shop=shop):
            await _apply(conn, migration)
            applied.append(migration.title)
        await conn.execute("UPDATE gateway.control SET shop = $1 WHERE shop IS DISTINCT FROM $1", shop)
        if notify is not None:
            await conn.execute("UPDATE gateway.control SET notify = $1 WHERE notify <> $1", notify)
        applied += await _attach_sources(conn, shop=shop)
        if roles is not None:
            applied += [f"role {name}" for name in await make_roles(conn, roles, shop=shop)]
        await renew_grants(conn, [entry.source for entry in await registered(conn) if entry.table_exists])
        return applied


async def pending(dsn_or_conn: Any, *, directory: Path = MIGRATIONS) -> list[str]:
    """The names of what `migrate` would apply. Raises MigrationError for an applied file that was changed."""
    if isinstance(dsn_or_conn, str):
        async with connected(dsn_or_conn, purpose="migrate --check") as conn:
            return await pending(conn, directory=directory)
    conn = dsn_or_conn
    shop = await _recorded_shop(conn)
    found = await _missing(conn, read_migrations(directory), shop=shop is not False)
    titles = [migration.title for migration in found]
    if any(migration.set == "gateway" for migration in found):
        return titles
    return titles + [f"source {name}" for name in await _outdated_sources(conn)]


@asynccontextmanager
async def _one_at_a_time(conn: Any, lock_timeout_ms: int) -> AsyncIterator[None]:
    """The lock belongs to the session, because every migration is a transaction of its own."""
    await conn.execute(f"SET lock_timeout = {int(lock_timeout_ms)}")
    try:
        await conn.execute("SELECT pg_advisory_lock($1)", LOCK_MIGRATE)
    except asyncpg.LockNotAvailableError as error:
        raise MigrationError(
            f"another migrate has been running for {lock_timeout_ms} ms: wait for it"
        ) from error
    try:
        yield
    finally:
        if not conn.is_closed():
            await conn.execute("SELECT pg_advisory_unlock($1)", LOCK_MIGRATE)


async def _recorded_shop(conn: Any) -> bool | None:
    if await conn.fetchval("SELECT to_regclass('gateway.control')") is None:
        return None
    shop: bool | None = await conn.fetchval("SELECT shop FROM gateway.control")
    return shop


async def _decide_shop(conn: Any, asked: bool) -> bool:
    recorded = await _recorded_shop(conn)
    if recorded is not None:
        if recorded and not asked:
            raise MigrationError("this database has the reference schema already: leave --no-shop away")
        return recorded
    if asked:
        await _refuse_foreign_shop(conn)
    return asked


async def _refuse_foreign_shop(conn: Any) -> None:
    """Raises MigrationError if the reference schema's tables exist, and our migrations did not make them."""
    if await _applied(conn, "shop"):
        return
    for table in _SHOP_TABLES:
        if await conn.fetchval("SELECT to_regclass($1)", f"public.{table}") is not None:
            raise MigrationError(
                f"public.{table} exists and is not ours; run `migrate --no-shop` and attach your own tables"
            )


async def _applied(conn: Any, name: str) -> dict[int, Any]:
    if await conn.fetchval("SELECT to_regclass('gateway.migrations')") is None:
        return {}
    rows = await conn.fetch("SELECT number, name, checksum FROM gateway.migrations WHERE set = $1", name)
    return {row["number"]: row for row in rows}


async def _missing(conn: Any, migrations: list[Migration], *, shop: bool) -> list[Migration]:
    applied = {name: await _applied(conn, name) for name in ("gateway", "shop")}
    missing = []
    for migration in migrations:
        row = applied[migration.set].pop(migration.number, None)
        if row is None:
            if shop or migration.set != "shop":
                missing.append(migration)
        elif row["checksum"] != migration.checksum:
            raise MigrationError(f"{migration.title} was changed after it had been applied: restore the file")
    for name, rows in applied.items():
        for number, row in rows.items():
            title = f"{name}/{number:04d}_{row['name']}"
            raise MigrationError(f"{title} is applied but unknown here: the database is of a newer version")
    return missing


async def _apply(conn: Any, migration: Migration) -> None:
    """The triggers read gateway.control and write to the log, so a lock on those must not be waited for."""

    async def work() -> None:
        await conn.execute(migration.sql)
        await conn.execute(
            "INSERT INTO gateway.migrations (set, number, name, checksum) VALUES ($1, $2, $3, $4)",
            *(migration.set, migration.number, migration.name, migration.checksum),
        )

    try:
        await with_short_locks(conn, work)
    except NeverFree as error:
        raise MigrationError(
            f"{migration.title}: what it alters was {error}; end the long transactions and try again"
        ) from error
    except asyncpg.PostgresError as error:
        raise MigrationError(f"{migration.title}: {error}{_advice(error)}") from error


def _advice(error: asyncpg.PostgresError) -> str:
    if not isinstance(error, asyncpg.InsufficientPrivilegeError):
        return ""
    return "; the role needs CREATE on the database, and on the schema public for the reference schema"


async def _attach_sources(conn: Any, *, shop: bool) -> list[str]:
    """Attaches the default sources, and anew those that an older version has attached."""
    names = await _outdated_sources(conn)
    defaults = {source.name: source for source in default_sources()} if shop else {}
    sources = {entry.source.name: entry.source for entry in await registered(conn)} | defaults
    for name in names:
        await attach(conn, sources[name])
    return [f"source {name}" for name in names]


async def _outdated_sources(conn: Any) -> list[str]:
    entries = await registered(conn)
    outdated = [
        entry.source.name
        for entry in entries
        if entry.table_exists and source_checksum(entry.source) != entry.checksum
    ]
    known = {entry.source.name for entry in entries}
    if await _recorded_shop(conn):
        outdated += [source.name for source in default_sources() if source.name not in known]
    return outdated
