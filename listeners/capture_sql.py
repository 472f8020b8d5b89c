import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

from listeners.source_sql import (
    item_of,
    present_rows_of,
    quote_identifier,
    quote_literal,
    rows_of,
    table_name,
)
from listeners.sources import Column, Source
from listeners.sql import queries
from protocol.topics import KEY_GRAMMAR, TopicKind

__all__ = [
    "STAMP_TRIGGER",
    "AttachedTable",
    "checksum",
    "create_functions",
    "create_triggers",
    "drop_functions",
    "drop_triggers",
]

_CAPTURE: Final = queries("capture")

# BEFORE triggers fire in the order of their names' bytes: ours has to see what all the others have made of
# the row, and no ASCII character comes after the tilde.
STAMP_TRIGGER: Final = "~gateway_stamp"
_EVENTS: Final = ("insert", "update", "delete", "truncate")
_NEXT_VERSION: Final = "nextval('gateway.version_seq')"


class AttachedTable(NamedTuple):
    """A table as it is when its functions are made: as long as it has these columns they are quicker."""

    id: int
    names: Sequence[str]  # of all columns that there ever were
    columns: Sequence[str]  # of those that there are
    not_null: Collection[str]


def create_functions(source: Source, table: AttachedTable) -> list[str]:
    """The statements that make, or replace, the functions of a source."""
    names = _names(source) | _names_as_attached(table)
    statements = []
    if source.version_column is not None:
        names |= _stamping(source) | _stamping_as_attached(source, table)
        statements.append(_CAPTURE["stamp"].format(**names, quote=_quote(names)))
    present = names | _present(source, table)
    for event in _EVENTS:
        log = _CAPTURE[f"log_{event}"]
        function = {"log_function": names[f"log_{event}_function"], "quote": _quote(names)}
        both = {"log": log.format(**names), "log_as_attached": log.format(**present)}
        statements.append(_CAPTURE["log"].format(**names, **both, **function))
    return statements


def _quote(names: dict[str, str]) -> str:
    """A dollar quote for a function's body that no identifier or constant in it can end."""
    tag = "$function$"
    while any(tag in name for name in names.values()):
        tag = f"{tag[:-1]}_$"
    return tag


def create_triggers(source: Source) -> list[str]:
    """The statements that put the triggers on the table; `drop_triggers` has to go before them."""
    wanted = ["log_triggers"] if source.version_column is None else ["stamp_trigger", "log_triggers"]
    return [_CAPTURE[name].format(**_names(source)) for name in wanted]


def drop_triggers(table: str) -> list[str]:
    """The statements that take all triggers of ours off a table; `table` is quoted already."""
    names = (STAMP_TRIGGER, *(f"gateway_log_{event}" for event in _EVENTS))
    return [f"DROP TRIGGER IF EXISTS {quote_identifier(name)} ON {table};" for name in names]


def drop_functions(name: str) -> list[str]:
    """The statements that remove the functions of the source of that name."""
    kinds = ("stamp", *(f"log_{event}" for event in _EVENTS))
    return [f"DROP FUNCTION IF EXISTS {_function(kind, name)}();" for kind in kinds]


def checksum(source: Source) -> str:
    """Of all that is generated for a source: when it changes, the source has to be attached anew."""
    # The table may be renamed meanwhile, and its triggers go with it.
    anywhere = source.model_copy(update={"schema_name": "", "table": ""})
    columns = (*source.mapped_columns, *filter(None, [source.version_column]), *source.shape.generated)
    table = AttachedTable(0, columns, columns, frozenset(columns))
    statements = create_functions(anywhere, table) + create_triggers(anywhere)
    return hashlib.sha256("\n".join(statements).encode()).hexdigest()


def _function(kind: str, name: str) -> str:
    return f"gateway.{quote_identifier(f'{kind}_{name}')}"


def _names(source: Source) -> dict[str, str]:
    new_version, row_changed = _NEXT_VERSION, _differs(source)
    if source.version_column is not None:
        # Should the column be gone, every row counts as changed and draws its version for the log alone.
        new_version = f"coalesce(n.version::bigint, {_NEXT_VERSION})"
        row_changed = "n.version IS NULL OR n.version IS DISTINCT FROM o.version"
    return {
        "source": quote_literal(source.name),
        "table": table_name(source),
        "new_rows": rows_of(source, "new_rows"),
        "old_rows": rows_of(source, "old_rows"),
        "new_item": item_of(source, "n"),
        "old_item": item_of(source, "o"),
        "same_key": _same(source.key_columns),
        "gone": _gone(source),
        "new_version": new_version,
        "row_changed": row_changed,
        "stamp_trigger": quote_identifier(STAMP_TRIGGER),
        "stamp_function": _function("stamp", source.name),
        **{f"log_{event}_function": _function(f"log_{event}", source.name) for event in _EVENTS},
    }


def _names_as_attached(table: AttachedTable) -> dict[str, str]:
    column_names = f"ARRAY[{', '.join(map(quote_literal, table.names))}]::pg_catalog.text[]"
    names = {"table_id": str(table.id), "column_names": column_names}
    return names | {"as_attached": _CAPTURE["as_attached"].format(**names)}


def _present(source: Source, table: AttachedTable) -> dict[str, str]:
    return {
        "new_rows": present_rows_of(source, "new_rows"),
        "old_rows": present_rows_of(source, "old_rows"),
        "new_item": item_of(source, "n", not_null=table.not_null),
        "old_item": item_of(source, "o", not_null=table.not_null),
    }


def _same(fields: Iterable[str]) -> str:
    return " AND ".join(f'n.{field}::text COLLATE "C" = o.{field}::text COLLATE "C"' for field in fields)


def _differs(source: Source) -> str:
    fields = (field for field, mapping in source.columns.items() if isinstance(mapping, Column))
    return " OR ".join(f"n.{field}::text IS DISTINCT FROM o.{field}::text" for field in sorted(fields))


def _gone(source: Source) -> str:
    """The topics that a row has left while its key stayed the same: only the vendor's can be such."""
    if not isinstance(source.columns.get("vendor_id"), Column) or TopicKind.VENDOR not in source.topics:
        return "NULL::text[]"
    old, new = "o.vendor_id::text", "n.vendor_id::text"
    # The comparison comes first: it spares nearly every row the pattern.
    left = f"n.here AND {old} IS DISTINCT FROM {new} AND {old} ~ '^{KEY_GRAMMAR}$'"
    return f"CASE WHEN {left} THEN ARRAY['vendor:' || {old}] END"


def _stamping(source: Source) -> dict[str, str]:
    """What the stamp function sets, and what does not count as a change of the row.

    A generated column is null in NEW before the row is stored; what it is made of counts in its stead, and
    that may be an unmapped column.
    """
    stamps = _stamps(source)
    nullable = _uncounted(source)
    expressions = ", ".join(f"{quote_literal(column)}, {value}" for column, value in stamps.items())
    unstamped = _nulls(nullable)
    unchanged = "unchanged_but" if _has_unmapped(source) else "unchanged"
    return {
        "ignored": _nulls([*nullable, *stamps]),
        "stamps": expressions,
        "unchanged": _CAPTURE[unchanged].format(stamps=expressions, unstamped=unstamped),
    }


def _stamping_as_attached(source: Source, table: AttachedTable) -> dict[str, str]:
    """The same by the names of the columns."""
    stamps = _stamps(source)
    uncounted = _uncounted(source)
    stamped = [name for name in table.columns if name not in uncounted]
    counted = [name for name in stamped if name not in stamps]
    names = {"table_id": str(table.id)} | {
        f"{row.lower()}_{what}": ", ".join(f"{row}.{quote_identifier(name)}" for name in columns)
        for row in ("NEW", "OLD")
        for what, columns in (("counted", counted), ("stamped", stamped))
    }
    names["assign_stamps"] = " ".join(
        f"NEW.{quote_identifier(column)} := {value};" for column, value in stamps.items()
    )
    unchanged = "unchanged_but_as_attached" if _has_unmapped(source) else "unchanged"
    return names | {"unchanged_as_attached": _CAPTURE[unchanged].format(**names)}


def _stamps(source: Source) -> dict[str, str]:
    stamps = {source.version_column or "": f"pg_catalog.{_NEXT_VERSION}"}
    if source.stamp_updated_at and isinstance(mapping := source.columns["updated_at"], Column):
        stamps[mapping.column] = "pg_catalog.clock_timestamp()"
    return stamps


def _has_unmapped(source: Source) -> bool:
    """Whether there are columns that do not count because nothing is made of them."""
    shape = source.shape
    return bool(shape.unmapped) and not set(shape.generated) & set(source.mapped_columns)


def _uncounted(source: Source) -> list[str]:
    shape = source.shape
    unmapped = shape.unmapped if _has_unmapped(source) else ()
    return [name for name in (*shape.generated, *unmapped) if name not in shape.domains]


def _nulls(columns: Iterable[str]) -> str:
    """A jsonb that sets these columns to null."""
    return quote_literal(json.dumps(dict.fromkeys(columns)))
