from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from load.stack import Servers

__all__ = ["Product", "changing_product"]

_CHOOSE = "SELECT product_id, location_id FROM inventory ORDER BY product_id DESC, location_id LIMIT 1"
_CHANGE = "UPDATE inventory SET on_hand = on_hand + 1 WHERE product_id = $1 AND location_id = $2"


class Product:
    """One of the sample shop, whose stock at one location is changed."""

    def __init__(self, connection: asyncpg.Connection, product: str, location: str) -> None:
        self.topic = f"product:{product}"
        self._connection = connection
        self._row = product, location

    async def change(self) -> None:
        """Commits one more on hand."""
        await self._connection.execute(_CHANGE, *self._row)


@asynccontextmanager
async def changing_product(servers: Servers) -> AsyncIterator[Product]:
    connection = await asyncpg.connect(servers.database_url)
    try:
        yield Product(connection, *await connection.fetchrow(_CHOOSE))
    finally:
        await connection.close()
