from collections.abc import Sequence
from typing import Final

from listeners.sources import Column, Constant, Source
from listeners.sql import queries
from protocol.topics import TopicKind

__all__ = [
    "at_key",
    "feeding",
    "function_name",
    "is_number",
    "item_function",
    "key_parameter",
    "quote_identifier",
    "quote_literal",
    "read_sql",
    "same_key",
    "table_name",
    "text_of",
    "version_of",
]

_LOG: Final = queries("change_log")

_INTEGERS: Final = {
    *("on_hand", "reserved", "damaged", "safety_stock", "incoming", "available"),
    *("low_stock_at", "price_minor"),
}


def is_number(field: str) -> bool:
    """Whether a field of an item is a whole number."""
    return field in _INTEGERS


def quote_identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def quote_literal(value: str | int | bool) -> str:
    """A constant of SQL; the text form is right whatever standard_conforming_strings says."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    quoted = value.replace("'", "''")
    return "E'" + quoted.replace("\\", "\\\\") + "'" if "\\" in quoted else f"'{quoted}'"


def table_name(source: Source) -> str:
    return f"{quote_identifier(source.schema_name)}.{quote_identifier(source.table)}"


def function_name(kind: str, source: Source) -> str:
    return f"gateway.{quote_identifier(f'{kind}_{source.name}')}"


def item_function(source: Source) -> str:
    """What turns a row of the source, as jsonb, into the fields of an item: for triggers and loads alike."""
    return function_name("item", source)


def key_parameter(source: Source, field: str, text: str) -> str:
    """An expression that casts `text` to the type of a key column, or to null if it is no such value.

    The column can then be compared by its own index, and no id of a client can raise an error. What a cast
    accepts may still be another spelling (`007`), so the row's key has to be compared as text as well.
    """
    match source.key_type(field):
        case "integer":
            return (
                f"CASE WHEN {text} ~ '^-?[0-9]{{1,19}}$' THEN CASE WHEN {text}::numeric"
                f" BETWEEN -9223372036854775808 AND 9223372036854775807 THEN {text}::bigint END END"
            )
        case "uuid":
            pattern = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
            return f"CASE WHEN {text} ~ '{pattern}' THEN {text}::uuid END"
        case "text":
            return text


def text_of(source: Source, field: str, alias: str = "t") -> str:
    """A key of the row `alias`, as text."""
    mapping = source.columns[field]
    if isinstance(mapping, Constant):
        return f"{quote_literal(mapping.value)}::text"
    return f"{alias}.{quote_identifier(mapping.column)}::text"


def at_key(source: Source, field: str, text: str, alias: str = "t") -> str:
    """The condition that a key of the row `alias` is `text`, in exactly this spelling."""
    exact = f"{text_of(source, field, alias)} = {text}"
    mapping = source.columns[field]
    if isinstance(mapping, Constant):
        return exact
    column = f"{alias}.{quote_identifier(mapping.column)}"
    if source.key_type(field) == "text":
        return f"{column} = {text}"
    return f"{column} = {key_parameter(source, field, text)} AND {exact}"


def same_key(one: Source, alias: str, other: Source, other_alias: str, field: str) -> str:
    """The condition that two rows of two sources have the same key, in a form that lets indexes be used."""
    mine, theirs = one.columns[field], other.columns[field]
    if (
        isinstance(mine, Column)
        and isinstance(theirs, Column)
        and one.key_type(field) == other.key_type(field)
    ):
        return f"{alias}.{quote_identifier(mine.column)} = {other_alias}.{quote_identifier(theirs.column)}"
    return at_key(one, field, text_of(other, field, other_alias), alias)


def version_of(source: Source, row: str) -> str:
    """The version in `row`, a jsonb; 0 should the column be gone."""
    return f"coalesce(({row} ->> {quote_literal(source.version_column or '')})::bigint, 0)"


def read_sql(sources: Sequence[Source]) -> str:
    """The relay's statement for these sources; its columns are those of listeners.change_log.LogRow.

    $1 is a pg_snapshot as text, $2 the limit. `locations` is set for products (where stock of it is now),
    `product` and `product_version` for stock that came into a topic, `location_active` for all stock.
    """
    return _LOG["read"].format(
        kind=_kind(sources),
        unseen=_UNSEEN,
        locations=_locations(sources),
        product=_product(sources),
        location_active=_location_active(sources),
    )


# Compared with an OR, the two ranges of the index are one bitmap per leaf; see tests for the plan.
_UNSEEN: Final = (
    "c.xid >= pg_snapshot_xmax($1::text::pg_snapshot)"
    " OR c.xid = ANY (ARRAY(SELECT pg_snapshot_xip($1::text::pg_snapshot)))"
)
_PRODUCT_ID: Final = "(l.item ->> 'product_id')"
_LOCATION_ID: Final = "(l.item ->> 'location_id')"


def _kind(sources: Sequence[Source]) -> str:
    cases = [f"WHEN {quote_literal(source.name)} THEN {quote_literal(source.kind)}" for source in sources]
    return f"CASE c.source {' '.join(cases)} END" if cases else "NULL::text"


def _locations(sources: Sequence[Source]) -> str:
    selects = [
        _LOG["locations_of_product"].format(
            location=text_of(source, "location_id"),
            table=table_name(source),
            condition=at_key(source, "product_id", _PRODUCT_ID),
        )
        for source in feeding(sources, "stock", TopicKind.LOCATION)
    ]
    return f"CASE WHEN l.kind = 'product' THEN ARRAY({_union(selects)}) END" if selects else "NULL::text[]"


def _product(sources: Sequence[Source]) -> str:
    selects = [
        _LOG["product_of_stock"].format(
            item_function=item_function(source),
            version=version_of(source, "x.r"),
            table=table_name(source),
            condition=at_key(source, "product_id", _PRODUCT_ID),
        )
        for source in feeding(sources, "product", TopicKind.LOCATION)
    ]
    return _union(selects) or _LOG["no_product"]


def _location_active(sources: Sequence[Source]) -> str:
    selects = [
        _LOG["active_of_stock"].format(
            item_function=item_function(source),
            table=table_name(source),
            condition=at_key(source, "location_id", _LOCATION_ID),
        )
        for source in sources
        if source.kind == "location"
    ]
    found = f"({_union(selects)} LIMIT 1) IS DISTINCT FROM 'false'" if selects else "true"
    return f"CASE WHEN l.kind = 'stock' THEN {found} END"


def feeding(sources: Sequence[Source], kind: str, topics: TopicKind) -> list[Source]:
    """The sources of a kind that feed topics of a kind."""
    return [source for source in sources if source.kind == kind and topics in source.topics]


def _union(selects: Sequence[str]) -> str:
    return "\nUNION ALL\n".join(selects)
