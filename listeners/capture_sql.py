import hashlib
from collections.abc import Iterable
from typing import Final

from listeners.source_sql import (
    function_name,
    is_number,
    item_function,
    quote_identifier,
    quote_literal,
    table_name,
)
from listeners.sources import FIELDS, Column, Constant, Source
from listeners.sql import queries
from protocol.topics import KEY_GRAMMAR

__all__ = [
    "STAMP_TRIGGER",
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
_TRIGGERS: Final = (STAMP_TRIGGER, *(f"gateway_log_{event}" for event in _EVENTS))


def create_functions(source: Source) -> list[str]:
    """The statements that make, or replace, the functions of a source."""
    names = _names(source)
    wanted = ["item", *(f"log_{event}" for event in _EVENTS)]
    if source.version_column is not None:
        wanted.insert(1, "stamp")
    return [_CAPTURE[name].format(**names) for name in wanted]


def create_triggers(source: Source) -> list[str]:
    """The statements that put the triggers on the table; `drop_triggers` has to go before them."""
    wanted = ["triggers"] if source.version_column is None else ["stamp_trigger", "triggers"]
    return [_CAPTURE[name].format(**_names(source)) for name in wanted]


def drop_triggers(table: str) -> list[str]:
    """The statements that take all triggers of ours off a table; `table` is quoted already."""
    return [f"DROP TRIGGER IF EXISTS {quote_identifier(name)} ON {table};" for name in _TRIGGERS]


def drop_functions(name: str) -> list[str]:
    """The statements that remove the functions of the source of that name."""
    kinds = ("stamp", *(f"log_{event}" for event in _EVENTS))
    functions = [f"DROP FUNCTION IF EXISTS gateway.{quote_identifier(f'{kind}_{name}')}();" for kind in kinds]
    return [*functions, f"DROP FUNCTION IF EXISTS gateway.{quote_identifier(f'item_{name}')}(jsonb);"]


def checksum(source: Source) -> str:
    """Of all that is generated for a source: when it changes, the source has to be attached anew."""
    statements = create_functions(source) + create_triggers(source)
    return hashlib.sha256("\n".join(statements).encode()).hexdigest()


def _names(source: Source) -> dict[str, str]:
    names = {
        "source": quote_literal(source.name),
        "table": table_name(source),
        "pairs": _pairs(source),
        "same_key": _same(source.key_columns.values()),
        "gone": _gone(source),
        "item_function": item_function(source),
        "read_control": _CAPTURE["read_control"],
        "finish": _CAPTURE["finish"],
        "stamp_trigger": quote_identifier(STAMP_TRIGGER),
        "stamp_function": function_name("stamp", source),
        **_versions(source),
    }
    for event in _EVENTS:
        names[f"log_{event}_function"] = function_name(f"log_{event}", source)
        names[f"log_{event}_trigger"] = quote_identifier(f"gateway_log_{event}")
    return names


def _pairs(source: Source) -> str:
    expressions = [f"{quote_literal(field)}, {_field(source, field)}" for field in FIELDS[source.kind]]
    return ",\n    ".join(expressions)


def _field(source: Source, field: str) -> str:
    mapping = source.columns.get(field)
    if isinstance(mapping, Constant):
        return quote_literal(mapping.value)
    if mapping is None:
        return _missing(source, field)
    if field == "active":
        return f"({_text(mapping)}) OPERATOR(pg_catalog.=) 'true'" if mapping.words else _raw(mapping)
    if is_number(field):
        return _integer(field, mapping)
    return _text(mapping)


def _raw(mapping: Column) -> str:
    return f"r OPERATOR(pg_catalog.->) {quote_literal(mapping.column)}"


def _text(mapping: Column) -> str:
    text = f"r OPERATOR(pg_catalog.->>) {quote_literal(mapping.column)}"
    if not mapping.words:
        return text
    cases = " ".join(
        f"WHEN {quote_literal(old)} THEN {quote_literal(new)}" for old, new in sorted(mapping.words.items())
    )
    return f"CASE {text} {cases} ELSE {text} END"


def _integer(field: str, mapping: Column) -> str:
    raw = _raw(mapping)
    if mapping.scale is not None:
        scaled = f"pg_catalog.round(gateway.number({raw}) OPERATOR(pg_catalog.*) {mapping.scale})"
        is_number = f"pg_catalog.jsonb_typeof({raw}) OPERATOR(pg_catalog.=) 'number'"
        raw = f"CASE WHEN {is_number} THEN pg_catalog.to_jsonb({scaled}) ELSE {raw} END"
    if field == "low_stock_at":
        return raw
    return f"coalesce(nullif({raw}, 'null'::jsonb), '0'::jsonb)"


def _missing(source: Source, field: str) -> str:
    """What a field is worth that the source does not map."""
    if field in ("available", "on_hand"):
        sign = "-" if field == "available" else "+"
        start = "on_hand" if field == "available" else "available"
        terms = [f"gateway.number({_raw_or_zero(source, start)})"]
        terms += [
            f"gateway.number({_raw_or_zero(source, part)})"
            for part in ("reserved", "damaged", "safety_stock")
            if part in source.columns
        ]
        return f" OPERATOR(pg_catalog.{sign}) ".join(terms)
    if field == "low_stock_at":
        return "NULL::bigint"
    if is_number(field):
        return "0"
    return "'published'" if field == "status" else "NULL::text"


def _raw_or_zero(source: Source, field: str) -> str:
    mapping = source.columns.get(field)
    if isinstance(mapping, Column):
        return _integer(field, mapping)
    return f"'{mapping.value}'::jsonb" if mapping is not None else "'0'::jsonb"


def _same(columns: Iterable[str]) -> str:
    return " AND ".join(f"n.r -> {name} = o.r -> {name}" for name in map(quote_literal, columns))


def _differs(columns: Iterable[str], new: str, old: str) -> str:
    names = map(quote_literal, columns)
    return " OR ".join(f"{new} -> {name} IS DISTINCT FROM {old} -> {name}" for name in names)


def _gone(source: Source) -> str:
    """The topics that a row has left while its key stayed the same: only the vendor's can be such."""
    vendor = source.columns.get("vendor_id")
    if not isinstance(vendor, Column):
        return "NULL::text[]"
    old = f"o.r ->> {quote_literal(vendor.column)}"
    changed = _differs([vendor.column], "n.r", "o.r")
    fits = f"{old} ~ '^{KEY_GRAMMAR}$'"
    return f"CASE WHEN n.r IS NOT NULL AND ({fits}) AND ({changed}) THEN ARRAY['vendor:' || ({old})] END"


def _versions(source: Source) -> dict[str, str]:
    """The parts about stamps. Locations have no version column: their versions are drawn for the log only."""
    if source.version_column is None:
        draw = "nextval('gateway.version_seq')"
        return {"new_version": draw, "row_changed": f"({_differs(source.mapped_columns, 'n.r', 'o.r')})"}
    column = quote_literal(source.version_column)
    stamped = [source.version_column]
    stamps = [f"{column}, nextval('gateway.version_seq')"]
    if source.stamp_updated_at:
        stamped.append(_column(source, "updated_at"))
        stamps.append(f"{quote_literal(stamped[-1])}, clock_timestamp()")
    names = [quote_literal(name) for name in stamped]
    return {
        "new_version": f"coalesce((n.r ->> {column})::bigint, nextval('gateway.version_seq'))",
        # Should the column be gone, every row counts as changed and draws its version for the log alone.
        "row_changed": f"n.r -> {column} IS NULL OR n.r -> {column} IS DISTINCT FROM o.r -> {column}",
        "changed": _changed(source, stamped),
        "stamps": ", ".join(stamps),
        "stamps_differ": _differs(stamped, "n", "o"),
        "old_stamps": ", ".join(f"{name}, o -> {name}" for name in names),
    }


def _changed(source: Source, stamped: list[str]) -> str:
    """Whether an UPDATE has changed the row, in a BEFORE trigger, where generated columns are null in NEW."""
    if not set(source.generated) & set(source.mapped_columns):
        return _differs((name for name in source.mapped_columns if name not in stamped), "n", "o")
    ignored = ", ".join(quote_literal(name) for name in (*source.generated, *stamped))
    return f"n - ARRAY[{ignored}] <> o - ARRAY[{ignored}]"


def _column(source: Source, field: str) -> str:
    mapping = source.columns[field]
    if not isinstance(mapping, Column):
        raise TypeError(f"{field} is a constant")  # sources.py does not let this happen
    return mapping.column
