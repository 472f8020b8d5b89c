"""A small shop, and writers who do to it whatever shops do."""

import random
from typing import Final

import asyncpg

__all__ = ["ADD_STOCK", "LOCATIONS", "PRODUCTS", "change", "fill", "write"]

PRODUCTS: Final = [f"P{n}" for n in range(40)]
LOCATIONS: Final = ["L1", "L2", "L3"]

TAKEN_BACK: Final = (
    asyncpg.RaiseError,
    asyncpg.DeadlockDetectedError,
    asyncpg.UniqueViolationError,  # another writer moved its stock there first
)
ADD_STOCK: Final = """
    INSERT INTO inventory (product_id, location_id, vendor_id, on_hand) VALUES ($1, $2, 'V1', $3)
    ON CONFLICT (product_id, location_id) DO UPDATE SET on_hand = excluded.on_hand
"""


async def fill(shop: asyncpg.Connection) -> None:
    """One vendor's products, each with stock at every location."""
    await shop.execute("INSERT INTO vendors (vendor_id, name) VALUES ('V1', 'Vendor')")
    await shop.executemany(
        "INSERT INTO locations (location_id, vendor_id, name) VALUES ($1, 'V1', $1)",
        [(n,) for n in LOCATIONS],
    )
    await shop.executemany(
        "INSERT INTO products (product_id, vendor_id, sku, name, price_minor, status)"
        " VALUES ($1, 'V1', $1, $1, 100, 'published')",
        [(name,) for name in PRODUCTS],
    )
    await shop.executemany(ADD_STOCK, [(p, place, 100) for p in PRODUCTS for place in LOCATIONS])


async def write(connection: asyncpg.Connection, chance: random.Random) -> None:
    """One transaction of one to three statements, some of which are taken back."""
    try:
        async with connection.transaction():
            for _ in range(chance.choice((1, 1, 1, 2, 3))):
                await change(connection, chance)
            if chance.random() < 0.1:
                await connection.execute("DO $$ BEGIN RAISE 'changed my mind'; END $$")
    except TAKEN_BACK:
        pass  # meant to be; or two writers met in opposite orders, as they would have without us


async def change(connection: asyncpg.Connection, chance: random.Random) -> None:
    product, location = chance.choice(PRODUCTS), chance.choice(LOCATIONS)
    what = chance.random()
    if what < 0.5:
        await connection.execute(
            "UPDATE inventory SET on_hand = on_hand + $3 WHERE product_id = $1 AND location_id = $2",
            product, location, chance.randint(0, 3),
        )  # fmt: skip
    elif what < 0.65:
        await connection.execute(ADD_STOCK, product, location, chance.randint(0, 50))
    elif what < 0.8:
        await connection.execute(
            "DELETE FROM inventory WHERE product_id = $1 AND location_id = $2", product, location
        )
    elif what < 0.95:
        await connection.execute(
            "UPDATE products SET price_minor = $2 WHERE product_id = $1", product, chance.randint(1, 999)
        )
    else:
        await connection.execute(
            "UPDATE inventory SET location_id = $3 WHERE product_id = $1 AND location_id = $2"
            " AND NOT EXISTS (SELECT FROM inventory WHERE product_id = $1 AND location_id = $3)",
            product, location, chance.choice(LOCATIONS),
        )  # fmt: skip
