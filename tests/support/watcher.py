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

__all__ = ["Watcher", "database_copy", "watching"]


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

    def equals(self, topic: str, expected: dict[str, dict[str, Any]]) -> bool:
        """Whether the copy says what the database says: its stock, and the products that belong to it."""
        if not self.is_complete(topic):
            return False
        items = self.copies[topic].items
        if topic.startswith("location:"):
            sold = {item["product_id"] for item in items.values() if item["kind"] == "stock"}
            items = {k: i for k, i in items.items() if i["kind"] == "stock" or i["product_id"] in sold}
        return {key: {name: item[name] for name in expected.get(key, {})} for key, item in items.items()} == (
            expected
        )


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
