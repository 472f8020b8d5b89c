"""Copies of topics as clients keep them, and whether they are what the database says."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import orjson

from load.client import connect
from load.stack import Servers
from load.waiting import until
from protocol.items import Copy

__all__ = ["Copies", "differing_copies", "open_copies", "product_topics"]

# The stock of a topic's kind; $1: its id.
_STOCK: Final = {
    kind: f"SELECT product_id, location_id, version FROM inventory WHERE {kind}_id = $1"
    for kind in ("product", "location", "vendor")
}


class Copies:
    """What one connection has been sent, by topic. `complete`: topics whose snapshot has ended.

    `again` is called with a topic that is unavailable and the seconds after which to ask again; None: that is
    one of the refusals.
    """

    def __init__(self) -> None:
        self.copies: dict[str, Copy] = {}
        self.positions: dict[str, tuple[str, int]] = {}
        self.complete: set[str] = set()
        self.refusals: list[bytes] = []
        self.again: Callable[[str, float], object] | None = None
        self.postponed = 0
        self.completed_at = 0.0  # when the last snapshot ended, in s of time.monotonic

    def on_text(self, payload: bytes, at: float, /) -> None:
        message = orjson.loads(payload)
        kind, topic = message["type"], message.get("topic", "")
        if kind == "snapshot":
            copy = self.copies.setdefault(topic, Copy())
            if message["part"] == 1:
                copy.reset()
                self.complete.discard(topic)
            if message["last"]:
                self.complete.add(topic)
                self.completed_at = at
            copy.apply(message["items"])
        elif kind == "delta":
            self.copies[topic].apply(message["items"])
        elif kind == "resumed":
            self.complete.add(topic)
        elif kind == "error" and message["code"] == "unavailable" and self.again is not None:
            self.postponed += 1
            self.again(topic, message["retry_after_ms"] / 1000)
        elif kind == "error":
            self.refusals.append(payload)
        else:
            return
        if "epoch" in message:
            self.positions[topic] = message["epoch"], message["seq"]

    def missing(self, topics: Iterable[str]) -> int:
        """How many of the topics are not complete yet. Raises RuntimeError if the gateway refused one."""
        if self.refusals:
            raise RuntimeError(f"the gateway refuses: {self.refusals[0].decode()}")
        return len(set(topics) - self.complete)

    def versions(self, topic: str) -> dict[str, int]:
        """Of the stock it holds, by key."""
        held = self.copies.get(topic, Copy()).items
        return {key: item["version"] for key, item in held.items() if item["kind"] == "stock"}


@asynccontextmanager
async def open_copies(url: str, topics: Sequence[str], *, timeout_s: float = 60.0) -> AsyncIterator[Copies]:
    """A connection that has taken all topics, some of them later when it was told to.

    Raises RuntimeError, TimeoutError and what connect() does.
    """
    copies, loop = Copies(), asyncio.get_running_loop()
    client = await connect(url, copies.on_text)
    copies.again = lambda topic, wait_s: loop.call_later(wait_s, client.subscribe, [topic])
    try:
        client.subscribe(topics)
        await until(lambda: not copies.missing(topics), timeout_s=timeout_s)
        yield copies
    finally:
        client.abort()


async def product_topics(servers: Servers, count: int) -> list[str]:
    """The topics of the first products."""
    connection: Any = await asyncpg.connect(servers.database_url)
    try:
        query = "SELECT DISTINCT product_id FROM inventory ORDER BY product_id LIMIT $1"
        return [f"product:{row[0]}" for row in await connection.fetch(query, count)]
    finally:
        await connection.close()


async def differing_copies(database_url: str, each: Iterable[Copies]) -> int:
    """How many copies of topics are not, item by item and version by version, what the database holds."""
    connection: Any = await asyncpg.connect(database_url)
    rows: dict[str, dict[str, int]] = {}
    differing = 0
    try:
        for copies in each:
            for topic in copies.copies:
                if topic not in rows:
                    kind, _, name = topic.partition(":")
                    found = await connection.fetch(_STOCK[kind], name)
                    rows[topic] = {f"stock:{row[0]}:{row[1]}": row[2] for row in found}
                differing += copies.versions(topic) != rows[topic]
    finally:
        await connection.close()
    return differing
