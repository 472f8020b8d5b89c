from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, TypeVar

from listeners.backoff import Backoff
from listeners.capture_sql import (
    STAMP_TRIGGER,
    AttachedTable,
    checksum,
    create_functions,
    create_triggers,
    drop_functions,
    drop_triggers,
)
from listeners.errors import SourceError
from listeners.postgres import LOCK_ATTACH
from listeners.roles import forget_table, show_table
from listeners.short_locks import ATTEMPTS, LOCK_TIMEOUT_MS, NeverFree, with_short_locks
from listeners.source_sql import quote_identifier, quote_literal, table_name
from listeners.sources import NUMBERS, VERSION_COLUMN, Column, KeyType, Shape, Source
from listeners.sql import queries

__all__ = ["AttachRefused", "Registered", "attach", "attached", "detach", "registered"]

_SQL: Final = queries("catalog")
T = TypeVar("T")
COLUMN_COMMENT: Final = "inventory-gateway: stamped by the gateway's trigger"

_KEY_TYPES: Final[dict[str, KeyType]] = {
    "text": "text",
    "varchar": "text",
    "int2": "integer",
    "int4": "integer",
    "int8": "integer",
    "uuid": "uuid",
}
_NUMBER_TYPES: Final = ("int2", "int4", "int8", "numeric", "float4", "float8")
_TIMES: Final = ("timestamptz", "timestamp", "date")


class AttachRefused(SourceError):
    """The table can not be attached as it is; the message says why."""


class Registered(NamedTuple):
    """A row of gateway.sources. `source` bears the names that its table has now."""

    source: Source
    table_id: int
    table_exists: bool
    added_column: bool
    checksum: str


class _Table(NamedTuple):
    id: int
    columns: dict[str, Any]


async def attach(
    conn: Any,
    source: Source,
    *,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
    attempts: int = ATTEMPTS,
    backoff: Backoff | None = None,
) -> Source:
    """Put the triggers of a source on its table, and the version column if it lacks one.

    Attaching an attached source again brings everything up to date. The table is locked for milliseconds; if
    it is not free within `lock_timeout_ms`, the writers behind us are let through before the next attempt.
    Returns the source as registered, with the types of its keys. Raises AttachRefused with the reason, and
    SourceError when all attempts failed.
    """

    async def work() -> Source:
        return await _attach_now(conn, source)

    await _raise_versions(conn, source)  # beforehand: it reads the whole table
    return await _locked(conn, work, source.name, lock_timeout_ms, attempts, backoff)


async def detach(
    conn: Any,
    name: str,
    *,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
    attempts: int = ATTEMPTS,
    backoff: Backoff | None = None,
) -> None:
    """Take off everything that attach has put there, the version column too.

    Raises SourceError when no such source is attached, or all attempts at the lock failed.
    """

    async def work() -> None:
        await _detach_now(conn, name)

    await _locked(conn, work, name, lock_timeout_ms, attempts, backoff)


async def attached(conn: Any) -> tuple[Source, ...]:
    """The attached sources whose tables exist, by name."""
    return tuple(entry.source for entry in await registered(conn) if entry.table_exists)


async def registered(conn: Any) -> list[Registered]:
    return [_registered(row) for row in await conn.fetch(_SQL["registered"])]


def _registered(row: Any) -> Registered:
    source = Source.model_validate_json(row["spec"])
    exists = row["table_name"] is not None
    if exists:
        source = source.model_copy(update={"schema_name": row["schema_name"], "table": row["table_name"]})
    return Registered(source, row["table_id"], exists, row["added_column"], row["checksum"])


async def _locked(
    conn: Any,
    work: Callable[[], Awaitable[T]],
    name: str,
    lock_timeout_ms: int,
    attempts: int,
    backoff: Backoff | None,
) -> T:
    async def one_at_a_time() -> T:
        await conn.execute("SELECT pg_advisory_xact_lock($1)", LOCK_ATTACH)
        return await work()

    try:
        return await with_short_locks(
            conn, one_at_a_time, lock_timeout_ms=lock_timeout_ms, attempts=attempts, backoff=backoff
        )
    except NeverFree as error:
        raise SourceError(
            f"source {name!r}: the table was {error}; end the long transactions on it and try again"
        ) from error


async def _raise_versions(conn: Any, source: Source) -> None:
    """A version that is drawn from now on is above those that the rows have.

    They may come from another sequence: of a schema of ours that was dropped, or of another database.
    """
    table = await conn.fetchval("SELECT to_regclass($1)::oid::bigint", table_name(source))
    if source.version_column is None or table is None:
        return
    if source.version_column not in {row["name"] for row in await conn.fetch(_SQL["columns"], table)}:
        return
    column = quote_identifier(source.version_column)
    highest = await conn.fetchval(f"SELECT max({column}) FROM {table_name(source)}")  # noqa: S608  # quoted
    if isinstance(highest, int):  # else it is no column of ours, and the table will be refused
        await conn.execute(_SQL["raise_versions"], highest)


async def _attach_now(conn: Any, source: Source) -> Source:
    before = await registered(conn)
    table = await _inspect(conn, source, before)
    source = _resolve(source, table)
    mine = next((entry for entry in before if entry.source.name == source.name), None)
    added = mine is not None and mine.added_column
    if source.version_column is not None and source.version_column not in table.columns:
        await _add_version_column(conn, source)
        added = True
    statements = [
        *drop_triggers(table_name(source)),
        *create_functions(source, await _as_attached(conn, table.id)),
        *create_triggers(source),
    ]
    await conn.execute("\n".join(statements))
    await conn.execute(
        _SQL["register"],
        *(source.name, source.kind, source.model_dump_json(by_alias=True), table.id, added, checksum(source)),
    )
    await show_table(conn, source)
    await conn.execute(_SQL["new_nonce"])
    return source


async def _as_attached(conn: Any, table_id: int) -> AttachedTable:
    columns = await conn.fetch(_SQL["columns"], table_id)
    return AttachedTable(
        table_id,
        await conn.fetchval(_SQL["column_names"], table_id),
        tuple(column["name"] for column in columns),
        frozenset(column["name"] for column in columns if column["not_null"]),
    )


async def _add_version_column(conn: Any, source: Source) -> None:
    """All rows that exist get one version: a constant default rewrites no table, however large it is."""
    version = await conn.fetchval(_SQL["draw_version"])
    column = quote_identifier(source.version_column or VERSION_COLUMN)
    await conn.execute(
        f"ALTER TABLE {table_name(source)} ADD COLUMN {column} bigint DEFAULT {int(version)};"
        f"COMMENT ON COLUMN {table_name(source)}.{column} IS {quote_literal(COLUMN_COMMENT)}"
    )


async def _detach_now(conn: Any, name: str) -> None:
    entries = {entry.source.name: entry for entry in await registered(conn)}
    entry = entries.get(name)
    if entry is None:
        known = ", ".join(entries) or "none"
        raise SourceError(f"source {name!r}: is not attached; attached: {known}")
    statements = []
    if entry.table_exists:
        await forget_table(conn, entry.source)
        table = table_name(entry.source)
        statements += drop_triggers(table)
        if entry.added_column and entry.source.version_column is not None:
            column = quote_identifier(entry.source.version_column)
            statements.append(f"ALTER TABLE {table} DROP COLUMN IF EXISTS {column};")
    await conn.execute("\n".join([*statements, *drop_functions(name)]))
    await conn.execute(_SQL["unregister"], name)
    await conn.execute(_SQL["new_nonce"])


async def _inspect(conn: Any, source: Source, before: list[Registered]) -> _Table:
    """Raises AttachRefused."""

    def refuse(reason: str) -> AttachRefused:
        return AttachRefused(f"source {source.name!r}: {table_name(source)} {reason}")

    row = await conn.fetchrow(_SQL["table"], source.schema_name, source.table)
    if row is None:
        raise refuse("does not exist")
    for entry in before:
        if entry.table_id == row["id"] and entry.source.name != source.name:
            raise refuse(f"is attached as {entry.source.name!r} already")
        if entry.table_exists and entry.table_id != row["id"] and entry.source.name == source.name:
            raise refuse(
                f"is not the table attached under this name, {table_name(entry.source)}: detach that first"
            )
    reason = _unfit(row)
    if reason is not None:
        raise refuse(reason)
    columns = {column["name"]: column for column in await conn.fetch(_SQL["columns"], row["id"])}
    keys = [set(key["columns"]) for key in await conn.fetch(_SQL["unique_keys"], row["id"])]
    reason = _unfit_columns(source, columns, keys)
    if reason is not None:
        raise refuse(reason)
    later = await conn.fetchval(_SQL["later_triggers"], row["id"], STAMP_TRIGGER)
    if later is not None:
        raise refuse(f"has the trigger {later!r}, which would fire after ours ({STAMP_TRIGGER}): rename it")
    return _Table(row["id"], columns)


def _unfit(row: Any) -> str | None:
    """Why no table of this form can be attached."""
    if row["is_partition"]:
        return "is a partition: the triggers of a statement fire only on the table that the statement names"
    if row["relkind"] == "p":
        return "is partitioned: writes that name a partition would go unseen"
    if row["relkind"] != "r":
        return "is no ordinary table"
    if row["is_child"] or row["has_children"]:
        return "takes part in inheritance: writes that name another table of the tree would go unseen"
    if row["persistence"] == "t":
        return "is a temporary table"
    if row["schema_name"] in ("gateway", "pg_catalog", "information_schema"):
        return "is no table of a shop"
    if row["is_subscribed"]:
        return "is the target of a subscription: logical replication does not fire ordinary triggers"
    if row["forces_row_security"]:
        return "forces row security upon its owner: loads would miss rows"
    if not row["is_owner"]:
        return f"belongs to {row['owner']}: only its owner may add triggers"
    return None


def _unfit_columns(source: Source, columns: dict[str, Any], keys: list[set[str]]) -> str | None:
    """Why these columns can not be what the source says they are."""
    for field, mapping in source.columns.items():
        if not isinstance(mapping, Column):
            continue
        found = columns.get(mapping.column)
        if found is None:
            return f"has no column {mapping.column!r} (columns.{field}); it has: {', '.join(columns)}"
        if found["generated"] == "v":
            return f"has the virtual column {mapping.column!r}, which is null in triggers: make it STORED"
        reason = _unfit_type(source, field, mapping, found["type"])
        if reason is not None:
            return f"has {mapping.column!r} of type {found['type']}: {reason} (columns.{field})"
    wanted = set(source.key_columns.values())
    if not any(key and key <= wanted for key in keys):
        return f"has no usable key: ({', '.join(sorted(wanted))}) needs a primary key or a unique index"
    return _unfit_version(source, columns)


def _unfit_type(source: Source, field: str, mapping: Column, found: str) -> str | None:
    if field in source.key_columns or field == "vendor_id":
        return None if found in _KEY_TYPES else f"a key is one of {', '.join(_KEY_TYPES)}"
    if field == "active":
        return (
            None if found == "bool" or mapping.words else "a boolean is needed, or words for true and false"
        )
    if field == "updated_at":
        return None if found in _TIMES else f"a time is one of {', '.join(_TIMES)}"
    if field in NUMBERS:
        return None if found in _NUMBER_TYPES else f"a number is one of {', '.join(_NUMBER_TYPES)}"
    return None


def _unfit_version(source: Source, columns: dict[str, Any]) -> str | None:
    found = columns.get(source.version_column or "")
    if found is None or (found["type"] == "int8" and found["comment"] == COLUMN_COMMENT):
        return None
    return (
        f"has a column {source.version_column!r} that is not ours; it may be an ORM's:"
        " give version_column another name"
    )


def _resolve(source: Source, table: _Table) -> Source:
    columns = table.columns.values()
    ours = (*source.mapped_columns, source.version_column)
    generated = tuple(column["name"] for column in columns if column["generated"])
    shape = Shape(
        key_types={
            field: _KEY_TYPES[table.columns[mapping.column]["type"]]
            for field in ("product_id", "location_id", "vendor_id")
            if isinstance(mapping := source.columns.get(field), Column)
        },
        generated=generated,
        unmapped=tuple(name for name in table.columns if name not in ours and name not in generated),
        domains=tuple(column["name"] for column in columns if column["is_domain"]),
    )
    return source.model_copy(update={"shape": shape})
