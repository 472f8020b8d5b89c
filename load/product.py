from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from load.stack import Servers

__all__ = ["Product", "ScarceProduct", "changing_product", "scarce_product"]

_CHOOSE = "SELECT product_id, location_id FROM inventory ORDER BY product_id DESC, location_id LIMIT 1"
_CHANGE = "UPDATE inventory SET on_hand = on_hand + 1 WHERE product_id = $1 AND location_id = $2"

# One that the public can see, and a location whose stock counts for it.
_CHOOSE_SCARCE = """
SELECT p.product_id, p.vendor_id, min(i.location_id) AS location_id
FROM products p JOIN inventory i USING (product_id) JOIN locations l USING (location_id)
WHERE p.status = 'published' AND l.active GROUP BY 1, 2 ORDER BY 1 DESC OFFSET $1 LIMIT 1
"""
_EMPTY = """
UPDATE inventory SET on_hand = reserved + damaged + safety_stock, low_stock_at = 5 WHERE product_id = $1
"""
_LEAVE = """
UPDATE inventory SET on_hand = reserved + damaged + safety_stock + $3
WHERE product_id = $1 AND location_id = $2
"""


class Product:
    """One of the sample shop, whose stock at one location is changed."""

    def __init__(self, connection: asyncpg.Connection, product: str, location: str) -> None:
        self.topic = f"product:{product}"
        self._connection = connection
        self._row = product, location

    async def change(self) -> None:
        """Commits one more on hand."""
        await self._connection.execute(_CHANGE, *self._row)


class ScarceProduct:
    """One of which there are one or two in all: every change can be seen in the public view."""

    def __init__(self, connection: asyncpg.Connection, product: str, vendor: str, location: str) -> None:
        self.topic = f"product:{product}"
        self.vendor = vendor
        self.location = location
        self._connection = connection
        self._row = product, location
        self._left = 1

    async def change(self) -> None:
        """Commits the other number."""
        self._left = 3 - self._left
        await self._connection.execute(_LEAVE, *self._row, self._left)


@asynccontextmanager
async def changing_product(servers: Servers) -> AsyncIterator[Product]:
    connection = await asyncpg.connect(servers.database_url)
    try:
        yield Product(connection, *await connection.fetchrow(_CHOOSE))
    finally:
        await connection.close()


@asynccontextmanager
async def scarce_product(servers: Servers, number: int) -> AsyncIterator[ScarceProduct]:
    """The product of that number, from 0 on, sold out but for one or two."""
    connection = await asyncpg.connect(servers.database_url)
    try:
        product, vendor, location = await connection.fetchrow(_CHOOSE_SCARCE, number)
        await connection.execute(_EMPTY, product)
        yield ScarceProduct(connection, product, vendor, location)
    finally:
        await connection.close()
