"""A location with far more stock than the sample shop's."""

from typing import Any, Final

import asyncpg

from load.stack import Servers

__all__ = ["BIG", "build_big_location"]

BIG: Final = "BIG"

_BUILD: Final = """
    WITH home AS (INSERT INTO locations (location_id, vendor_id, name, kind)
                  SELECT $1, min(vendor_id), 'Big', 'warehouse' FROM vendors RETURNING vendor_id),
         made AS (INSERT INTO products (product_id, vendor_id, sku, name, category, price_minor)
                  SELECT 'B' || n, vendor_id, 'SKU-' || n, 'Big product ' || n, 'Garden', 100 + n
                  FROM home, generate_series(1, $2) AS n RETURNING product_id, vendor_id)
    SELECT count(*) FROM made
"""
_STOCK: Final = """
    INSERT INTO inventory (product_id, location_id, vendor_id, on_hand, low_stock_at)
    SELECT 'B' || n, $1, (SELECT vendor_id FROM locations WHERE location_id = $1), n % 40, 5
    FROM generate_series(1, $2) AS n
"""


async def build_big_location(servers: Servers, items: int) -> str:
    """The topic of a location of so many items, half of them products; made once."""
    connection: Any = await asyncpg.connect(servers.database_url)
    try:
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM locations WHERE location_id = $1)", BIG):
            await connection.execute(_BUILD, BIG, items // 2)
            await connection.execute(_STOCK, BIG, items // 2)
            await connection.execute("ANALYZE products, inventory")
    finally:
        await connection.close()
    return f"location:{BIG}"
