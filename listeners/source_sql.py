from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from listeners.sources import FIELDS, NUMBERS, Column, Constant, Source
from listeners.sql import queries
from protocol.topics import TopicKind

__all__ = [
    "ReadSql",
    "active_lookup",
    "at_key",
    "feeding",
    "item_of",
    "key_parameter",
    "present_rows_of",
    "quote_identifier",
    "quote_literal",
    "read_sql",
    "rows_of",
    "same_key",
    "table_name",
    "text_of",
    "union",
    "version_of",
]

_SOURCE: Final = queries("source")
_LOG: Final = queries("change_log")


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
    """A key of the table's row `alias`, as text."""
    mapping = source.columns[field]
    if isinstance(mapping, Constant):
        return f"{quote_literal(mapping.value)}::text"
    return f"{alias}.{quote_identifier(mapping.column)}::text"


def at_key(source: Source, field: str, text: str, alias: str = "t") -> str:
    """The condition that a key of the table's row `alias` is `text`, in exactly this spelling."""
    exact = f"{text_of(source, field, alias)} = {text}"
    mapping = source.columns[field]
    if isinstance(mapping, Constant) or source.key_type(field) == "text":
        return exact
    column = f"{alias}.{quote_identifier(mapping.column)}"
    return f"{column} = {key_parameter(source, field, text)} AND {exact}"


def same_key(one: Source, alias: str, other: Source, other_alias: str, field: str) -> str:
    """The condition that rows of two tables have the same key, in a form that lets indexes be used."""
    mine, theirs = one.columns[field], other.columns[field]
    same_type = one.key_type(field) == other.key_type(field)
    if same_type and isinstance(mine, Column) and isinstance(theirs, Column):
        return f"{alias}.{quote_identifier(mine.column)} = {other_alias}.{quote_identifier(theirs.column)}"
    return at_key(one, field, text_of(other, field, other_alias), alias)


def rows_of(source: Source, relation: str, *, alias: str = "t", where: str = "", extra: str = "") -> str:
    """A select of the source's rows with the columns renamed to fields, plus `here` (true) and `version`.

    `relation` is the table or a transition table; `where` and `extra` (more columns) see its row as `alias`.
    """
    columns = _columns(source)
    missing = dict.fromkeys(f"NULL::text AS {quote_identifier(column)}" for _, column in columns)
    return _SOURCE["rows"].format(
        missing=", ".join(missing),
        fields=_renamed(columns),
        relation=relation,
        alias=alias,
        where=f"WHERE {where}" if where else "",
        extra=f", {extra}" if extra else "",
    )


def present_rows_of(source: Source, relation: str) -> str:
    """`rows_of` a transition table whose table has all mapped columns."""
    return _SOURCE["present_rows"].format(fields=_renamed(_columns(source)), relation=relation)


def _columns(source: Source) -> list[tuple[str, str]]:
    columns = [
        (field, mapping.column)
        for field in FIELDS[source.kind]
        if isinstance(mapping := source.columns.get(field), Column)
    ]
    return columns if source.version_column is None else [*columns, ("version", source.version_column)]


def _renamed(columns: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{quote_identifier(column)} AS {field}" for field, column in columns)


def item_of(source: Source, alias: str, *, not_null: Collection[str] = ()) -> str:
    """The item of a row of `rows_of`, as jsonb: one truth for the triggers and the loads.

    `not_null`: columns that can not be null and are there; what becomes of their numbers is simpler.
    """
    pairs = []
    for field in FIELDS[source.kind]:
        mapping = source.columns.get(field)
        plain = (
            field in NUMBERS
            and isinstance(mapping, Column)
            and mapping.scale is None
            and mapping.column in not_null
        )
        value = f"{alias}.{field}" if plain else _field(source, field, alias)
        pairs.append(f"{quote_literal(field)}, {value}")
    return f"jsonb_build_object({', '.join(pairs)})"


def version_of(source: Source, alias: str) -> str:
    """The version of a row of `rows_of`; 0 should the column be gone."""
    return "0::bigint" if source.version_column is None else f"coalesce({alias}.version::bigint, 0)"


def _active_of(source: Source, alias: str) -> str:
    """Whether the location of a row of `rows_of` is active; unknown counts as active."""
    return f"{_text(source.columns['active'], 'active', alias)} IS DISTINCT FROM 'false'"


def _field(source: Source, field: str, alias: str) -> str:
    mapping = source.columns.get(field)
    if field == "active":
        return _active_of(source, alias)
    if mapping is None:
        return _missing(source, field, alias)
    if field not in NUMBERS:
        return f"{alias}.updated_at" if field == "updated_at" else _text(mapping, field, alias)
    if isinstance(mapping, Constant):
        return quote_literal(mapping.value)
    if field == "low_stock_at":
        return f"{alias}.{field}" if mapping.scale is None else _number(mapping, field, alias)
    # Also of a column that can not be null: it is, once it was dropped.
    return f"coalesce({_number(mapping, field, alias)}, '0')"


def _text(mapping: Column | Constant, field: str, alias: str) -> str:
    if isinstance(mapping, Constant):
        return f"{quote_literal(mapping.value)}::text"
    text = f"{alias}.{field}::text"
    if not mapping.words:
        return text
    cases = (
        f"WHEN {quote_literal(old)} THEN {quote_literal(new)}" for old, new in sorted(mapping.words.items())
    )
    return f"CASE {text} {' '.join(cases)} ELSE {text} END"


def _number(mapping: Column, field: str, alias: str) -> str:
    """As jsonb, whatever type the column has by now: no cast may fail a writer."""
    raw = f"to_jsonb({alias}.{field})"
    if mapping.scale is None:
        return raw
    scaled = f"to_jsonb(round(gateway.number({raw}) * {mapping.scale}))"
    return f"CASE jsonb_typeof({raw}) WHEN 'number' THEN {scaled} ELSE {raw} END"


def _missing(source: Source, field: str, alias: str) -> str:
    """What a field is worth that the source does not map."""
    if field in ("available", "on_hand"):
        sign, start = (" - ", "on_hand") if field == "available" else (" + ", "available")
        parts = [start, *("reserved", "damaged", "safety_stock")]
        return sign.join(_summand(source, part, alias) for part in parts if part in source.columns)
    if field == "low_stock_at":
        return "NULL::bigint"
    if field in NUMBERS:
        return "0"
    return "'published'" if field == "status" else "NULL::text"


def _summand(source: Source, field: str, alias: str) -> str:
    mapping = source.columns[field]
    if isinstance(mapping, Constant):
        return quote_literal(mapping.value)
    return f"gateway.number({_number(mapping, field, alias)})"


def feeding(sources: Sequence[Source], kind: str, topics: TopicKind) -> list[Source]:
    """The sources of a kind that feed topics of a kind."""
    return [source for source in sources if source.kind == kind and topics in source.topics]


def union(selects: Sequence[str]) -> str:
    return "\nUNION ALL\n".join(selects)


class ReadSql(NamedTuple):
    """How the change log of some sources is read; see listeners.change_log.ChangeLog."""

    read: str  # $1: a pg_snapshot as text, $2: the limit
    hold: str  # for str.format: `since`, a pg_snapshot as a constant
    look_up: str  # $1 to $5: id, kind, op, item and any text if the row has left topics, of each row


def read_sql(sources: Sequence[Source]) -> ReadSql:
    """The relay's statements for these sources; the columns are those of listeners.change_log.LogRow.

    `locations` is set for products (where stock of it is now), `product` and `product_version` for stock that
    came into a topic, `location_active` for all stock.
    """
    names = {
        "kind": _kind(sources),
        "locations": _locations(sources),
        "product": _product(sources),
        "location_active": _location_active(sources),
    }
    kind = names["kind"].replace("{", "{{").replace("}", "}}")
    return ReadSql(
        _LOG["read"].format(**names),
        _LOG["hold"].format(kind=kind, since="{since}"),
        _LOG["look_up"].format(**names),
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
    return f"CASE WHEN l.kind = 'product' THEN ARRAY({union(selects)}) END" if selects else "NULL::text[]"


def _product(sources: Sequence[Source]) -> str:
    selects = [
        _LOG["product_of_stock"].format(
            item=item_of(source, "n"),
            version=version_of(source, "n"),
            rows=rows_of(
                source,
                table_name(source),
                where=f"{_LOG['came_into_a_topic']} AND {at_key(source, 'product_id', _PRODUCT_ID)}",
            ),
        )
        for source in feeding(sources, "product", TopicKind.LOCATION)
    ]
    return union(selects) or _LOG["no_product"]


def _location_active(sources: Sequence[Source]) -> str:
    active = active_lookup(sources, _LOCATION_ID)
    return f"CASE WHEN l.kind = 'stock' THEN {active} END"


def active_lookup(sources: Sequence[Source], location_id: str) -> str:
    """Whether the location of that id (a text) is active, as a scalar; true where nobody knows it."""
    selects = [
        _SOURCE["active"].format(
            active=_active_of(source, "n"),
            rows=rows_of(
                source,
                table_name(source),
                alias="place",  # `location_id` may speak of a row `t` outside
                where=at_key(source, "location_id", location_id, "place"),
            ),
        )
        for source in sources
        if source.kind == "location"
    ]
    return f"coalesce(({union(selects)} LIMIT 1), true)" if selects else "true"
