import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Final, NamedTuple

import asyncpg

from gateway.sample.catalogue import (
    Assortment,
    Location,
    Product,
    Stock,
    Vendor,
    location,
    product,
    vendor,
)

__all__ = ["Connect", "OtherShop", "Seeded", "seed"]

Connect = Callable[[], AbstractAsyncContextManager[Any]]

# Measured: from 2,000 rows on, larger transactions gain nothing; smaller ones keep the relay's reads small.
CHUNK_ROWS: Final = 4000
# More than cores, because each also waits for its commits; a third more than with 2 on a 2-core machine.
WRITERS: Final = 4
# The checks of the foreign keys are planned once a session. Planned for a shop of one product, they go on to
# read all products of the vendor for every row, and never end (measured). So the first products come alone,
# for the statistics, and then no plan may read a whole table because it is still small.
_FIRST: Final = 20
_PLAN_FOR_MANY_ROWS: Final = "SET enable_seqscan = off"
_TRIES: Final = 5
_TABLES: Final = ("vendors", "locations", "products", "inventory")


class OtherShop(Exception):
    """The database holds rows of the same ids that belong to other vendors. The message is one line."""


class Seeded(NamedTuple):
    """What was added; the rest was there already."""

    products: int
    stock: int


async def seed(
    connect: Connect,
    shop: Assortment,
    *,
    writers: int = WRITERS,
    advance: Callable[[int], None] = lambda rows: None,
) -> Seeded:
    """Make the database hold at least this shop, by COPY over several connections.

    What exists is left as it is, also if it was sold or renamed since; so seeding again adds nothing, and a
    larger shop adds what is missing. Products come together with their stock, a few thousand rows a
    transaction. `advance` is told how many rows are settled more, of products * (1 + its locations) in all.
    Raises OtherShop, and what `connect` and asyncpg raise, in a group.
    """
    async with connect() as connection:
        await _base(connection, shop)
        empty = not await connection.fetchval("SELECT EXISTS (SELECT FROM public.products)")
    seeder = _Seeder(shop, advance, empty=empty)
    async with connect() as connection:
        await seeder.write_first(connection)
        await _analyze(connection)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(writers):
            tasks.create_task(seeder.write(connect))
    async with connect() as connection:
        await _analyze(connection)
    return Seeded(seeder.products, seeder.stock)


async def _analyze(connection: Any) -> None:
    for table in _TABLES:
        await connection.execute(f"ANALYZE public.{table}", timeout=None)


async def _base(connection: Any, shop: Assortment) -> None:
    """Vendors and locations."""
    vendors = [vendor(number) for number in range(1, shop.vendors + 1)]
    locations = [location(number, shop.vendor_of(number)) for number in range(1, shop.locations + 1)]
    async with connection.transaction():
        await _insert_missing(connection, "vendors", Vendor._fields, vendors)
        await _insert_missing(connection, "locations", Location._fields, locations)
        rows = await connection.fetch(
            "SELECT location_id, vendor_id FROM public.locations WHERE location_id = ANY ($1)",
            [one.location_id for one in locations],
        )
        _same_vendors({one.location_id: one.vendor_id for one in locations}, rows)


async def _insert_missing(
    connection: Any, table: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    names = ", ".join(columns)
    arrays = ", ".join(f"${place}::text[]" for place in range(1, len(columns) + 1))
    await connection.execute(
        f"INSERT INTO public.{table} ({names}) SELECT * FROM unnest({arrays}) ON CONFLICT DO NOTHING",  # noqa: S608 - our own names
        *map(list, zip(*rows, strict=True)),
    )


def _same_vendors(wanted: dict[str, str], rows: Sequence[Any]) -> None:
    for key, found in rows:
        if wanted[key] != found:
            raise OtherShop(
                f"{key} is there and belongs to vendor {found}, not {wanted[key]}: this is another shop, "
                "or one seeded with another number of vendors"
            )


class _Seeder:
    """What the writers share: the chunks that are left, and the sums."""

    def __init__(self, shop: Assortment, advance: Callable[[int], None], *, empty: bool) -> None:
        self.products = 0
        self.stock = 0
        self._shop = shop
        self._advance = advance
        self._empty = empty
        self._chunks = self._all_chunks()

    def _all_chunks(self) -> Iterator[range]:
        yield range(1, min(_FIRST, self._shop.products) + 1)
        size = max(1, CHUNK_ROWS // (1 + len(self._shop.locations_of(1))))
        for start in range(_FIRST + 1, self._shop.products + 1, size):
            yield range(start, min(start + size, self._shop.products + 1))

    async def write_first(self, connection: Any) -> None:
        await self._write_chunk(connection, next(self._chunks))

    async def write(self, connect: Connect) -> None:
        async with connect() as connection:
            await connection.execute(_PLAN_FOR_MANY_ROWS)
            for numbers in self._chunks:
                await self._write_chunk(connection, numbers)

    async def _write_chunk(self, connection: Any, numbers: range) -> None:
        products = [product(number, self._shop.vendor_of(number)) for number in numbers]
        stock = [row for number in numbers for row in self._shop.stock_of(number)]
        added = await self._add_missing(connection, products, stock)
        self.products += added.products
        self.stock += added.stock
        self._advance(len(products) + len(stock))

    async def _add_missing(self, connection: Any, products: list[Product], stock: list[Stock]) -> Seeded:
        for _ in range(_TRIES - 1):
            with suppress(asyncpg.UniqueViolationError):
                return await self._add(connection, products, stock)
            # Somebody else seeds, too, and was first here: COPY knows no ON CONFLICT.
            self._empty = False
        return await self._add(connection, products, stock)

    async def _add(self, connection: Any, products: list[Product], stock: list[Stock]) -> Seeded:
        if not self._empty:
            products, stock = await _missing(connection, products, stock)
        async with connection.transaction():
            await _copy(connection, "products", Product._fields, products)
            await _copy(connection, "inventory", Stock._fields, stock)
        return Seeded(len(products), len(stock))


async def _missing(
    connection: Any, products: list[Product], stock: list[Stock]
) -> tuple[list[Product], list[Stock]]:
    """Those that the database does not have. Raises OtherShop."""
    ids = [one.product_id for one in products]
    rows = await connection.fetch(
        "SELECT product_id, vendor_id FROM public.products WHERE product_id = ANY ($1)", ids
    )
    _same_vendors({one.product_id: one.vendor_id for one in products}, rows)
    known = {row["product_id"] for row in rows}
    pairs = await connection.fetch(
        "SELECT product_id, location_id FROM public.inventory WHERE product_id = ANY ($1)", ids
    )
    placed = {(row["product_id"], row["location_id"]) for row in pairs}
    return (
        [one for one in products if one.product_id not in known],
        [one for one in stock if (one.product_id, one.location_id) not in placed],
    )


async def _copy(connection: Any, table: str, columns: Sequence[str], rows: Sequence[Any]) -> None:
    # Measured: text made by ourselves is no faster than asyncpg's binary records.
    if rows:
        await connection.copy_records_to_table(table, schema_name="public", columns=columns, records=rows)
