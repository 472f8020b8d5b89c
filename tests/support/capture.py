from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import asyncpg
import orjson

__all__ = ["Logged", "fill_shop", "logged", "session"]


class Logged(NamedTuple):
    """A row of the change log."""

    source: str
    op: str
    version: int  # 0: none
    item: dict[str, Any]
    gone: list[str] | None

    @property
    def key(self) -> str:
        return ":".join(self.item[name] for name in ("product_id", "location_id") if name in self.item)


async def logged(connection: Any) -> list[Logged]:
    """What was logged since the last call, by id; the log is empty afterwards."""
    rows = await connection.fetch(
        "WITH gone AS (DELETE FROM gateway.change_log RETURNING *)"
        " SELECT source, op, version, item::text AS item, gone FROM gone ORDER BY id"
    )
    return [
        Logged(row["source"], row["op"], row["version"] or 0, orjson.loads(row["item"] or "{}"), row["gone"])
        for row in rows
    ]


async def fill_shop(connection: Any) -> None:
    """Two vendors; V with the locations L1 and L2 and the products A and B, both with 10 pieces at L1."""
    await connection.execute(
        """
        INSERT INTO vendors (vendor_id, name) VALUES ('V', 'Vendor'), ('W', 'Other');
        INSERT INTO locations (location_id, vendor_id, name) VALUES ('L1', 'V', 'One'), ('L2', 'V', 'Two');
        INSERT INTO products (product_id, vendor_id, name) VALUES ('A', 'V', 'Apple'), ('B', 'V', 'Bread');
        INSERT INTO inventory (product_id, location_id, vendor_id, on_hand)
        VALUES ('A', 'L1', 'V', 10), ('B', 'L1', 'V', 10);
        """
    )
    await logged(connection)


@asynccontextmanager
async def session(url: str) -> AsyncIterator[Any]:
    """A connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()
