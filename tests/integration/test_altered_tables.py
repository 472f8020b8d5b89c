"""The triggers name columns only while a table has those that it was attached with."""

from typing import Any

import asyncpg
import pytest

from listeners.attach import attach, attached
from listeners.sources import Source
from tests.support.capture import fill_shop, logged, session

NAMES_KNOWN = """
    SELECT gateway.columns_are('inventory'::regclass, array_agg(attname::text ORDER BY attnum))
    FROM pg_attribute WHERE attrelid = 'inventory'::regclass AND attnum > 0
"""
BINS = Source.model_validate(
    {
        "name": "bins",
        "kind": "stock",
        "table": "bins",
        "columns": {"product_id": "sku", "location_id": "site", "vendor_id": "owner", "on_hand": "qty"},
    }
)


@pytest.fixture
async def shop(pg: Any) -> Any:
    """Whose session has planned all that the triggers do, for the table as it was attached."""
    await fill_shop(pg)
    await write_all(pg)
    return pg


async def write_all(connection: Any) -> list[tuple[str, str, int]]:
    """Every kind of write; what was logged of them, and what was in stock.

    Without a version the update that changes nothing is logged as well: once is enough.
    """
    await connection.execute(
        "INSERT INTO inventory (product_id, location_id, vendor_id, on_hand) VALUES ('A', 'L2', 'V', 3);"
        "UPDATE inventory SET on_hand = on_hand + 1 WHERE location_id = 'L2';"
        "UPDATE inventory SET on_hand = on_hand WHERE location_id = 'L2';"
        "DELETE FROM inventory WHERE location_id = 'L2'"
    )
    return list(dict.fromkeys((row.op, row.key, row.item["on_hand"]) for row in await logged(connection)))


ALL = [("I", "A:L2", 3), ("U", "A:L2", 4), ("D", "A:L2", 4)]


class TestColumnsAre:
    async def test_those_that_there_are(self, shop: Any) -> None:
        assert await shop.fetchval(NAMES_KNOWN)
        await shop.execute("ALTER TABLE inventory DROP COLUMN incoming")
        assert await shop.fetchval(NAMES_KNOWN)  # a dropped one has a name as well

    @pytest.mark.parametrize(
        "names", [[], ["location_id"], ["location_id", "vendor_id", "name"], ["location_id", "vendor_id"] * 4]
    )
    async def test_others(self, shop: Any, names: list[str]) -> None:
        assert not await shop.fetchval("SELECT gateway.columns_are('locations', $1)", names)

    async def test_of_no_table(self, shop: Any) -> None:
        assert not await shop.fetchval("SELECT gateway.columns_are('1'::regclass, '{a}')")


class TestATableAttachedBeforeTheSchemaKnowsOfThis:
    async def test_is_refused(self, shop: Any) -> None:
        """A trigger that asks what is not there would fail every writer."""
        await shop.execute("ALTER FUNCTION gateway.columns_are RENAME TO gone")
        [source] = [source for source in await attached(shop) if source.name == "inventory"]
        with pytest.raises(asyncpg.UndefinedFunctionError):
            await attach(shop, source)
        await shop.execute("ALTER FUNCTION gateway.gone RENAME TO columns_are")
        assert await write_all(shop) == ALL


class TestAnAlteredTable:
    """By somebody else or by the writer itself, between two writes of one session."""

    @pytest.mark.parametrize(
        "alter",
        [
            "DROP COLUMN incoming",
            "DROP COLUMN low_stock_at CASCADE",
            "DROP COLUMN version",
            "DROP COLUMN updated_at",
            "RENAME COLUMN version TO revision",
            "RENAME COLUMN safety_stock TO reserve",
            "ADD COLUMN note text",
            "ALTER COLUMN on_hand TYPE bigint",
            "ALTER COLUMN incoming TYPE numeric",
            "DROP CONSTRAINT inventory_incoming_check, ALTER COLUMN incoming TYPE text",
            "RENAME TO stock",
            "SET SCHEMA gateway",
        ],
    )
    @pytest.mark.parametrize("own", [True, False])
    async def test_fails_no_writer(self, shop: Any, database_url: str, alter: str, own: bool) -> None:
        if "on_hand" in alter:
            await shop.execute("ALTER TABLE inventory DROP COLUMN available")
        async with session(database_url) as other:
            await (shop if own else other).execute(f"ALTER TABLE inventory {alter}")
        if alter == "RENAME TO stock":
            await shop.execute("CREATE VIEW inventory AS SELECT * FROM stock")
        if "SCHEMA" in alter:  # else not: it would have all plans made anew
            await shop.execute("SET search_path = public, gateway")
        assert await write_all(shop) == ALL

    @pytest.mark.parametrize("alter", ["ALTER on_hand TYPE bigint", "ALTER incoming TYPE numeric"])
    async def test_in_the_transaction_that_alters_it(self, shop: Any, alter: str) -> None:
        await shop.execute("ALTER TABLE inventory DROP COLUMN available")
        async with shop.transaction():
            await write_all(shop)
            await shop.execute(f"ALTER TABLE inventory {alter}")
            assert await write_all(shop) == ALL

    async def test_in_a_transaction_that_saw_it_as_it_was(self, shop: Any, database_url: str) -> None:
        async with session(database_url) as other, shop.transaction(isolation="repeatable_read"):
            await shop.fetchval("SELECT count(*) FROM vendors")  # its snapshot is taken
            await other.execute("ALTER TABLE inventory RENAME COLUMN version TO revision")
            assert await write_all(shop) == ALL
        assert await write_all(shop) == ALL

    async def test_a_new_column_is_kept_and_counts(self, shop: Any) -> None:
        await shop.execute("ALTER TABLE inventory ADD COLUMN note text")
        before = await shop.fetchval("SELECT version FROM inventory WHERE product_id = 'A'")
        await shop.execute("UPDATE inventory SET note = 'fragile' WHERE product_id = 'A'")
        note, version = await shop.fetchrow("SELECT note, version FROM inventory WHERE product_id = 'A'")
        assert note == "fragile"
        assert version > before
        assert [(row.op, row.key) for row in await logged(shop)] == [("U", "A:L1")]

    async def test_attached_anew_is_known_as_it_is(self, shop: Any) -> None:
        await shop.execute("ALTER TABLE inventory ADD COLUMN note text")
        [source] = [source for source in await attached(shop) if source.name == "inventory"]
        await attach(shop, source)
        await shop.execute("UPDATE inventory SET note = 'fragile' WHERE product_id = 'A'")
        assert await shop.fetchval("SELECT note FROM inventory WHERE product_id = 'A'") == "fragile"
        await logged(shop)
        assert await write_all(shop) == ALL

    async def test_a_number_that_may_be_null_by_now_counts_as_nothing(self, shop: Any) -> None:
        """The relay makes 0 of it, as the loads do: protocol/items.py."""
        await shop.execute(
            "ALTER TABLE inventory ALTER COLUMN incoming DROP NOT NULL;"
            "UPDATE inventory SET incoming = NULL WHERE product_id = 'A'"
        )
        [row] = await logged(shop)
        assert row.item["incoming"] is None


class TestColumnsThatNothingIsMadeOf:
    async def test_are_kept_without_a_new_version(self, pg: Any) -> None:
        await pg.execute(
            "CREATE TABLE bins (sku text, site text, owner text NOT NULL, qty int, note text, shelf int,"
            " PRIMARY KEY (sku, site));"
            "INSERT INTO bins VALUES ('A', 'L', 'V', 1, 'old', 1)"
        )
        await attach(pg, BINS)
        before = await pg.fetchval("SELECT gateway_version FROM bins")
        await pg.execute("UPDATE bins SET note = 'new'")
        assert await pg.fetchrow("SELECT note, gateway_version FROM bins") == ("new", before)
        assert await logged(pg) == []
        await pg.execute("UPDATE bins SET gateway_version = 0, note = 'newer'")
        note, version = await pg.fetchrow("SELECT note, gateway_version FROM bins")
        assert (note, version > before) == ("newer", True)
        await logged(pg)
        await pg.execute("ALTER TABLE bins ALTER qty TYPE numeric")
        await pg.execute("UPDATE bins SET note = 'newest'")
        assert await pg.fetchval("SELECT note FROM bins") == "newest"
        assert await logged(pg) == []
        await pg.execute("UPDATE bins SET qty = NULL")
        [row] = await logged(pg)
        assert row.item["on_hand"] == 0
