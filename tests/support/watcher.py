"""A client on a real socket that checks everything it hears and knows what the database should say."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import orjson
from websockets.asyncio.client import ClientConnection, connect

from protocol.items import item_key
from protocol.principal import View
from tests.support.checker import CheckedCopies

__all__ = ["Watcher", "database_copy", "public_copy", "watching"]


class Watcher(CheckedCopies):
    def __init__(self, client: ClientConnection) -> None:
        super().__init__()
        self.client = client

    async def subscribe(self, topics: Sequence[str], view: View = View.EXACT) -> None:
        self.held.update(dict.fromkeys(topics, view))
        message = {"type": "subscribe", "topics": list(topics), "view": view.value}
        await self.client.send(orjson.dumps(message).decode())

    async def listen(self) -> None:
        """Until the connection ends. Raises AssertionError for whatever the contract rules out."""
        async for data in self.client:
            message = orjson.loads(data)
            assert message["type"] != "error", message
            self.receive(message)


@asynccontextmanager
async def watching(url: str, topics: Sequence[str], view: View = View.EXACT) -> AsyncIterator[Watcher]:
    """A watcher that listens until the end of the block."""
    async with connect(url, proxy=None, max_size=None) as client, asyncio.TaskGroup() as tasks:
        watcher = Watcher(client)
        await watcher.subscribe(topics, view)
        task = tasks.create_task(watcher.listen())
        yield watcher
        task.cancel()


async def database_copy(shop: asyncpg.Connection, topic: str) -> dict[str, dict[str, Any]]:
    """What a complete copy of the topic holds, read from the shop's tables: the fields that say so."""
    kind, _, name = topic.partition(":")
    stock = await shop.fetch(
        f"SELECT product_id, location_id, version, available, on_hand, reserved FROM inventory"
        f" WHERE {kind}_id = $1",
        name,
    )
    products = await shop.fetch(
        "SELECT product_id, version, price_minor, status FROM products WHERE "
        + (
            "product_id IN (SELECT product_id FROM inventory WHERE location_id = $1)"
            if kind == "location"
            else f"{kind}_id = $1"
        ),
        name,
    )
    items = [{"kind": "stock", **row} for row in stock] + [{"kind": "product", **row} for row in products]
    return {item_key(item): item for item in items}


async def public_copy(shop: asyncpg.Connection, topic: str) -> dict[str, dict[str, Any]]:
    """What a complete public copy of a product's topic holds, where `low_stock_at` is the default of 5."""
    rows = await shop.fetch(
        "SELECT p.product_id, p.price_minor, p.status,"
        " coalesce(sum(greatest(0, i.available)), 0)::bigint AS available,"
        " coalesce(max(i.low_stock_at), 5) AS low"
        " FROM products p LEFT JOIN (inventory i JOIN locations l USING (location_id)) "
        "  ON i.product_id = p.product_id AND l.active"
        " WHERE p.product_id = $1 AND p.status = 'published' GROUP BY p.product_id",
        topic.partition(":")[2],
    )
    items: list[dict[str, Any]] = []
    for product_id, price_minor, status, available, low in rows:
        items.append(
            {"kind": "product", "product_id": product_id, "price_minor": price_minor, "status": status}
        )
        word = {"status": "in_stock"}
        if available <= low:
            word = (
                {"status": "low_stock", "only_left": available} if available else {"status": "out_of_stock"}
            )
        items.append({"kind": "availability", "product_id": product_id, **word})
    return {item_key(item): item for item in items}
