from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from listeners.attach import attached
from listeners.source_sql import ReadSql, at_key, read_sql, table_name, text_of
from listeners.sources import Source

__all__ = ["LogPlan", "load_plan", "stock_at_sql"]


class LogPlan(NamedTuple):
    """How the log of the attached sources is read; it is made anew with every reign."""

    read: ReadSql
    feeds: Mapping[str, Collection[str]]  # the kinds of topics each source feeds
    stock_at: Sequence[str]  # for a location ($1): the products with stock there, and their vendors


async def load_plan(connection: Any) -> LogPlan:
    sources = await attached(connection)
    return LogPlan(
        read=read_sql(sources),
        feeds={source.name: frozenset(source.topics) for source in sources},
        stock_at=[stock_at_sql(source) for source in sources if source.kind == "stock"],
    )


def stock_at_sql(source: Source) -> str:
    """The product and vendor ids of all stock at the location $1."""
    columns = f"{text_of(source, 'product_id')} AS product_id, {text_of(source, 'vendor_id')} AS vendor_id"
    here = at_key(source, "location_id", "$1::text")
    return f"SELECT {columns} FROM {table_name(source)} t WHERE {here}"  # noqa: S608  # quoted names
