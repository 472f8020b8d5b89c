import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple

import orjson
import structlog

from listeners.postgres import transaction
from listeners.source_sql import (
    active_lookup,
    at_key,
    feeding,
    item_of,
    rows_of,
    same_key,
    table_name,
    text_of,
    union,
    version_of,
)
from listeners.sources import Source
from listeners.sql import queries
from protocol.items import InvalidRow, Item, build_item
from protocol.topics import Topic, TopicKind

__all__ = ["BATCH_ROWS", "SMALL_ROWS", "TopicQuery"]

log = structlog.get_logger(__name__)

# Making an item takes some 15 us: so many at a time hold the loop for less than 10 ms.
BATCH_ROWS: Final = 500
SMALL_ROWS: Final = 2000

_SQL: Final = queries("topics")
_ID: Final = "$1::text"


class _Statement(NamedTuple):
    kind: Literal["stock", "product"]
    sql: str  # $1: the topic's id


class TopicQuery:
    """Loads topics from the shop's tables; the statements are made once from the sources.

    Rows that can not become items (a key outside the grammar, half a piece of something) are left out and
    counted: whoever wrote them is not to be stopped, and nobody could subscribe to them.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.skipped = 0
        self._statements = {kind: _statements(sources, kind) for kind in TopicKind}

    async def rows(self, pool: Any, topic: Topic, *, limit: int) -> list[Item]:
        """The items of a topic: stock and products are read side by side, at most `limit` rows of each."""
        found = await self._side_by_side(pool, topic, limit)
        return [item for statement, rows in found for item in self._items(statement, rows, topic)]

    async def batches(
        self, pool: Any, topic: Topic, *, size: int = BATCH_ROWS, small: int = SMALL_ROWS
    ) -> AsyncIterator[list[Item]]:
        """The items of a topic in lists of up to `size`, however many there are.

        A topic of fewer than `small` rows of each table is read by queries side by side. Any other is read
        with a cursor in one snapshot, and holds a connection until the iterator is exhausted or closed.
        """
        found = await self._side_by_side(pool, topic, small)
        if all(len(rows) < small for _, rows in found):
            for statement, rows in found:
                for first in range(0, len(rows), size):
                    yield self._items(statement, rows[first : first + size], topic)
                    await asyncio.sleep(0)  # whoever takes them may not wait for anything
            return
        async with pool.acquire() as conn, transaction(conn, isolation="repeatable_read", readonly=True):
            for statement in self._statements[topic.kind]:
                cursor = await conn.cursor(statement.sql, topic.id)
                while rows := await cursor.fetch(size):
                    yield self._items(statement, rows, topic)

    async def _side_by_side(self, pool: Any, topic: Topic, limit: int) -> list[tuple[_Statement, list[Any]]]:
        statements = self._statements[topic.kind]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(pool.fetch(f"{statement.sql}\nLIMIT $2::bigint", topic.id, limit))
                    for statement in statements
                ]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None  # one of them tells all: the server's answer or its silence
        return [(statement, task.result()) for statement, task in zip(statements, tasks, strict=True)]

    def _items(self, statement: _Statement, rows: Iterable[Any], topic: Topic) -> list[Item]:
        items = []
        skipped = 0
        for row in rows:
            fields = orjson.loads(row["item"])
            fields["location_active"] = row["location_active"]
            try:
                items.append(build_item(statement.kind, fields, row["version"]))
            except InvalidRow as error:
                skipped += 1
                reason = str(error)
        if skipped:
            self.skipped += skipped
            log.warning("rows that are no items", topic=str(topic), rows=skipped, reason=reason)
        return items


def _statements(sources: Sequence[Source], kind: TopicKind) -> list[_Statement]:
    stock = [_stock(sources, source, kind) for source in feeding(sources, "stock", kind)]
    products = [_product(sources, source, kind) for source in feeding(sources, "product", kind)]
    found = [_Statement("stock", union(stock))] if stock else []
    return [*found, _Statement("product", union(products))] if products else found


def _stock(sources: Sequence[Source], source: Source, kind: TopicKind) -> str:
    # In a location's topic this depends on the topic alone, so that it is looked up once.
    location_id = _ID if kind is TopicKind.LOCATION else text_of(source, "location_id")
    return _SQL["stock"].format(
        item=item_of(source, "n"),
        version=version_of(source, "n"),
        rows=rows_of(
            source,
            table_name(source),
            where=at_key(source, f"{kind}_id", _ID),
            extra=f"{active_lookup(sources, location_id)} AS location_active",
        ),
    )


def _product(sources: Sequence[Source], source: Source, kind: TopicKind) -> str:
    if kind is TopicKind.LOCATION:
        where = " OR ".join(
            _SQL["product_has_stock_here"].format(
                table=table_name(stock),
                here=at_key(stock, "location_id", _ID, "k"),
                same_product=same_key(source, "t", stock, "k", "product_id"),
            )
            for stock in feeding(sources, "stock", kind)
        )
        where = where or f"{_ID} IS NULL"  # never: without stock there is no product
    else:
        where = at_key(source, f"{kind}_id", _ID)
    return _SQL["product"].format(
        item=item_of(source, "n"),
        version=version_of(source, "n"),
        rows=rows_of(source, table_name(source), where=where),
    )
