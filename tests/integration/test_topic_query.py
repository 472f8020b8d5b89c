import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest

from listeners.attach import attach, attached, detach
from listeners.log_plan import load_plan
from listeners.pool import create_pool
from listeners.sources import default_sources, load_source_file
from listeners.topic_query import TopicQuery
from protocol.items import Item, build_item
from protocol.topics import parse_topic
from tests.support.capture import fill_shop, logged

FOREIGN_TABLES = """
    CREATE SCHEMA "Shop";
    CREATE TABLE "Shop"."Filiale" (nr bigint PRIMARY KEY, "Status" text NOT NULL);
    CREATE TABLE "Shop"."Artikel" (
        id uuid PRIMARY KEY, "Händler" int NOT NULL, titel text, preis numeric(10, 2), online boolean,
        version int, geändert timestamp
    );
    CREATE TABLE "Shop"."Bestand" (
        lfd serial PRIMARY KEY, "ArtikelId" uuid REFERENCES "Shop"."Artikel", filiale smallint NOT NULL,
        menge numeric, "reserviert!" int, kommentar json, UNIQUE ("ArtikelId", filiale)
    );
"""
FOREIGN_SOURCES = """
[[source]]
name = "artikel"
kind = "product"
schema = "Shop"
table = "Artikel"
[source.columns]
product_id = "id"
vendor_id = "Händler"
name = "titel"
price_minor = { column = "preis", scale = 100 }
currency = { value = "EUR" }
status = { column = "online", words = { true = "published", false = "draft" } }
updated_at = "geändert"

[[source]]
name = "filialen"
kind = "location"
schema = "Shop"
table = "Filiale"
[source.columns]
location_id = "nr"
active = { column = "Status", words = { offen = "true", zu = "false" } }

[[source]]
name = "bestand"
kind = "stock"
schema = "Shop"
table = "Bestand"
key = ["ArtikelId", "filiale"]
[source.columns]
product_id = "ArtikelId"
location_id = "filiale"
vendor_id = { value = "7" }
on_hand = "menge"
reserved = "reserviert!"
"""
APPLE, BREAD = uuid.UUID(int=0xA), uuid.UUID(int=0xB)


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Any]:
    pool = await create_pool(database_url, max_size=4)
    yield pool
    await pool.close()


@pytest.fixture
async def shop(pg: Any) -> Any:
    """Besides what fill_shop makes: A is at L2 as well, and W sells a product of its own without stock."""
    await fill_shop(pg)
    await pg.execute(
        "INSERT INTO inventory (product_id, location_id, vendor_id, on_hand) VALUES ('A', 'L2', 'V', 5);"
        "INSERT INTO products (product_id, vendor_id, name) VALUES ('C', 'W', 'Cheese')"
    )
    return pg


@pytest.fixture
def query() -> TopicQuery:
    return TopicQuery(default_sources())


@pytest.fixture
async def foreign(pg: Any, tmp_path: Path) -> Any:
    """Names, types and units of its own, in a schema of its own, beside the reference schema."""
    for name in ("inventory", "products", "locations"):
        await detach(pg, name)
    await pg.execute(FOREIGN_TABLES)
    await pg.execute(
        f"""
        INSERT INTO "Shop"."Filiale" VALUES (1, 'offen'), (2, 'zu');
        INSERT INTO "Shop"."Artikel" VALUES ('{APPLE}', 7, 'Apfel', 1.29, true, 1, '2026-01-02 03:04:05'),
            ('{BREAD}', 7, 'Brot', NULL, false, 1, NULL);
        INSERT INTO "Shop"."Bestand" ("ArtikelId", filiale, menge, "reserviert!")
        VALUES ('{APPLE}', 1, 10, 3), ('{APPLE}', 2, 4, NULL);
        """
    )
    file = tmp_path / "sources.toml"
    file.write_text(FOREIGN_SOURCES, encoding="utf-8")
    for source in load_source_file(file):
        await attach(pg, source)
    return pg


def bodies(items: list[Item]) -> dict[str, dict[str, Any]]:
    return {item.key: orjson.loads(item.body) for item in items}


async def load(query: TopicQuery, pool: Any, topic: str, limit: int = 1000) -> dict[str, dict[str, Any]]:
    return bodies(await query.rows(pool, parse_topic(topic), limit=limit))


async def unread(connection: Any, since: str) -> list[Any]:
    rows = await connection.fetch((await load_plan(connection)).read.read, since, None)
    return [row for row in rows if row["id"] is not None]


async def snapshot(connection: Any) -> str:
    text: str = await connection.fetchval("SELECT pg_current_snapshot()::text")
    return text


class TestTopics:
    @pytest.mark.parametrize(
        ("topic", "keys"),
        [
            ("product:A", {"product:A", "stock:A:L1", "stock:A:L2"}),
            ("product:C", {"product:C"}),
            ("location:L1", {"product:A", "product:B", "stock:A:L1", "stock:B:L1"}),
            ("location:L2", {"product:A", "stock:A:L2"}),
            ("vendor:V", {"product:A", "product:B", "stock:A:L1", "stock:B:L1", "stock:A:L2"}),
            ("vendor:W", {"product:C"}),
            ("product:nothing", set()),
            ("location:nothing", set()),
            ("vendor:nothing", set()),
        ],
    )
    async def test_hold_what_belongs_to_them(
        self, shop: Any, pool: Any, query: TopicQuery, topic: str, keys: set[str]
    ) -> None:
        assert (await load(query, pool, topic)).keys() == keys
        batches = [batch async for batch in query.batches(pool, parse_topic(topic), size=1, small=1)]
        assert bodies([item for batch in batches for item in batch]).keys() == keys

    async def test_items_are_those_of_the_log(self, shop: Any, pool: Any, query: TopicQuery) -> None:
        """Loaded or relayed, an item has the same bytes."""
        await logged(shop)
        await shop.execute("UPDATE inventory SET on_hand = 6; UPDATE products SET price_minor = 5")
        kinds = {"inventory": "stock", "products": "product"}
        relayed = {
            build_item(kinds[row.source], row.item | {"location_active": True}, row.version)
            for row in await logged(shop)
        }
        loaded = set(await query.rows(pool, parse_topic("vendor:V"), limit=100))
        assert loaded < relayed
        assert len(loaded) == 5

    async def test_are_cut_at_the_limit(self, shop: Any, pool: Any, query: TopicQuery) -> None:
        assert len(await load(query, pool, "vendor:V", limit=1)) == 2

    async def test_large_ones_come_in_batches_of_one_snapshot(
        self, shop: Any, pool: Any, query: TopicQuery
    ) -> None:
        await shop.execute(
            "INSERT INTO products (product_id, vendor_id, name)"
            " SELECT 'P' || n, 'V', 'p' FROM generate_series(1, 250) n;"
            "INSERT INTO inventory (product_id, location_id, vendor_id)"
            " SELECT 'P' || n, 'L1', 'V' FROM generate_series(1, 250) n"
        )
        sizes: list[int] = []
        keys: list[str] = []
        async for batch in query.batches(pool, parse_topic("location:L1"), size=100, small=100):
            if not sizes:
                await shop.execute("DELETE FROM inventory WHERE product_id = 'P250'")
            sizes.append(len(batch))
            keys += [item.key for item in batch]
        assert sizes == [100, 100, 52, 100, 100, 52]
        assert len(set(keys)) == 504

    async def test_an_abandoned_load_gives_its_connection_back(
        self, shop: Any, pool: Any, query: TopicQuery
    ) -> None:
        batches = query.batches(pool, parse_topic("vendor:V"), size=1, small=1)
        await anext(batches)
        assert pool.get_idle_size() < pool.get_size()
        await batches.aclose()  # type: ignore[attr-defined]  # it is a generator
        assert pool.get_idle_size() == pool.get_size()

    async def test_an_error_of_postgres_comes_out_as_it_is(
        self, shop: Any, pool: Any, query: TopicQuery
    ) -> None:
        await shop.execute("DROP TABLE inventory")
        with pytest.raises(asyncpg.UndefinedTableError):
            await query.rows(pool, parse_topic("product:A"), limit=10)

    async def test_survive_the_loss_of_a_column(self, shop: Any, pool: Any, query: TopicQuery) -> None:
        await shop.execute("ALTER TABLE products DROP COLUMN category, DROP COLUMN version")
        assert (await load(query, pool, "product:A"))["product:A"]["category"] == ""

    async def test_a_number_that_could_not_be_null_is_0_then(self, shop: Any, pool: Any) -> None:
        await shop.execute("ALTER TABLE inventory DROP COLUMN incoming")
        items = await load(TopicQuery(await attached(shop)), pool, "product:A")
        assert items["stock:A:L1"]["incoming"] == 0


class TestNoStock:
    async def test_a_location_is_empty_while_no_stock_is_attached(self, pool: Any, shop: Any) -> None:
        await detach(shop, "inventory")
        query = TopicQuery(await attached(shop))
        assert await query.rows(pool, parse_topic("location:L1"), limit=10) == []


class TestActiveLocations:
    @pytest.mark.parametrize("topic", ["product:A", "location:L2", "vendor:V"])
    async def test_are_told_from_inactive_ones(
        self, shop: Any, pool: Any, query: TopicQuery, topic: str
    ) -> None:
        await shop.execute("UPDATE locations SET active = false WHERE location_id = 'L2'")
        items = await load(query, pool, topic)
        active = {key: item["location_active"] for key, item in items.items() if item["kind"] == "stock"}
        assert active == {key: not key.endswith("L2") for key in active}
        assert "stock:A:L2" in active

    async def test_without_a_source_of_locations_all_are(self, shop: Any, pool: Any) -> None:
        await shop.execute("UPDATE locations SET active = false")
        query = TopicQuery([source for source in default_sources() if source.kind != "location"])
        assert (await load(query, pool, "product:A"))["stock:A:L1"]["location_active"] is True


class TestRowsThatAreNoItems:
    async def test_are_left_out_and_counted(self, shop: Any, pool: Any, query: TopicQuery) -> None:
        await shop.execute(
            "ALTER TABLE products ALTER price_minor TYPE numeric;"
            "UPDATE products SET price_minor = 0.5 WHERE product_id = 'A'"
        )
        assert (await load(query, pool, "product:A")).keys() == {"stock:A:L1", "stock:A:L2"}
        assert query.skipped == 1

    async def test_keys_outside_the_grammar(self, shop: Any, pool: Any, query: TopicQuery) -> None:
        await shop.execute(
            "ALTER TABLE products DROP CONSTRAINT products_product_id_check;"
            "INSERT INTO products (product_id, vendor_id, name) VALUES ('a b', 'W', 'x'), ('', 'W', 'x')"
        )
        assert (await load(query, pool, "vendor:W")).keys() == {"product:C"}
        assert query.skipped == 2


class TestForeignSchema:
    @pytest.fixture
    async def query(self, foreign: Any) -> TopicQuery:
        return TopicQuery(await attached(foreign))

    async def test_becomes_items_of_the_contract(self, pool: Any, query: TopicQuery) -> None:
        items = await load(query, pool, f"product:{APPLE}")
        product = items[f"product:{APPLE}"]
        assert product == {
            "kind": "product",
            "product_id": str(APPLE),
            "vendor_id": "7",
            "version": product["version"],
            "price_minor": 129,
            "sku": "",
            "name": "Apfel",
            "category": "",
            "currency": "EUR",
            "status": "published",
            "updated_at": "2026-01-02T03:04:05.000Z",
        }
        assert items[f"stock:{APPLE}:1"] == {
            "kind": "stock",
            "product_id": str(APPLE),
            "location_id": "1",
            "vendor_id": "7",
            "version": items[f"stock:{APPLE}:1"]["version"],
            "on_hand": 10,
            "reserved": 3,
            "damaged": 0,
            "safety_stock": 0,
            "incoming": 0,
            "available": 7,
            "low_stock_at": None,
            "location_active": True,
            "updated_at": None,
        }
        second = items[f"stock:{APPLE}:2"]
        assert (second["available"], second["location_active"]) == (4, False)

    @pytest.mark.parametrize(
        ("topic", "count"),
        [
            (f"product:{APPLE}", 3),
            (f"product:{str(APPLE).upper()}", 0),
            (f"product:{APPLE.hex}", 0),
            ("product:Apfel", 0),
            ("location:1", 2),
            ("location:01", 0),
            ("location:-1", 0),
            ("location:99999999999999999999", 0),
            ("location:9999999999999999999", 0),
            ("location:1.0", 0),
            ("vendor:7", 4),
            ("vendor:007", 0),
            ("vendor:seven", 0),
        ],
    )
    async def test_ids_are_compared_as_they_are_spelt(
        self, pool: Any, query: TopicQuery, topic: str, count: int
    ) -> None:
        """An id that the column's type does not know is one that nobody has, not an error."""
        assert len(await load(query, pool, topic)) == count

    async def test_changes_are_logged_and_looked_up(self, foreign: Any) -> None:
        since = await snapshot(foreign)
        await foreign.execute(
            f"""
            INSERT INTO "Shop"."Bestand" ("ArtikelId", filiale, menge) VALUES ('{BREAD}', 2, 1);
            UPDATE "Shop"."Bestand" SET menge = 5 WHERE "ArtikelId" = '{APPLE}' AND filiale = 1;
            UPDATE "Shop"."Artikel" SET preis = 0.99 WHERE id = '{APPLE}';
            UPDATE "Shop"."Filiale" SET "Status" = 'offen' WHERE nr = 2;
            UPDATE "Shop"."Filiale" SET "Status" = 'zu' WHERE nr = 1;
            """
        )
        arrival, update, product, place, _ = await unread(foreign, since)
        assert (arrival["kind"], arrival["op"], arrival["location_active"]) == ("stock", "I", True)
        assert orjson.loads(arrival["product"])["status"] == "draft"
        assert orjson.loads(arrival["item"])["product_id"] == str(BREAD)
        assert (update["op"], update["location_active"], update["product"]) == ("U", False, None)
        assert orjson.loads(update["item"])["available"] == 2
        assert (product["kind"], sorted(product["locations"])) == ("product", ["1", "2"])
        assert orjson.loads(product["item"])["price_minor"] == 99
        assert (place["kind"], orjson.loads(place["item"])) == (
            "location",
            {"location_id": "2", "active": True},
        )

    async def test_an_existing_version_column_is_left_to_its_owner(self, foreign: Any) -> None:
        await foreign.execute("""UPDATE "Shop"."Artikel" SET titel = 'x', version = 2""")
        assert {
            row["version"] for row in await foreign.fetch("""SELECT version FROM "Shop"."Artikel" """)
        } == {2}

    async def test_beside_a_second_source_of_the_same_kind(self, foreign: Any, pool: Any) -> None:
        for source in default_sources():
            await attach(foreign, source)
        await fill_shop(foreign)
        query = TopicQuery(await attached(foreign))
        assert (await load(query, pool, "product:A")).keys() == {"product:A", "stock:A:L1"}
        assert len(await load(query, pool, f"product:{APPLE}")) == 3
        since = await snapshot(foreign)
        await foreign.execute(
            "INSERT INTO inventory (product_id, location_id, vendor_id) VALUES ('A', 'L2', 'V')"
        )
        [row] = await unread(foreign, since)
        assert orjson.loads(row["product"])["product_id"] == "A"


class TestLookUps:
    async def test_a_product_knows_where_it_has_stock(self, shop: Any) -> None:
        since = await snapshot(shop)
        await shop.execute("UPDATE products SET price_minor = 9")
        rows = {
            orjson.loads(row["item"])["product_id"]: row["locations"] for row in await unread(shop, since)
        }
        assert {key: sorted(places) for key, places in rows.items()} == {
            "A": ["L1", "L2"],
            "B": ["L1"],
            "C": [],
        }

    async def test_stock_that_arrives_brings_its_product_along(self, shop: Any) -> None:
        since = await snapshot(shop)
        await shop.execute(
            "INSERT INTO inventory (product_id, location_id, vendor_id) VALUES ('B', 'L2', 'V')"
        )
        [row] = await unread(shop, since)
        assert orjson.loads(row["product"])["name"] == "Bread"
        assert row["product_version"] == await shop.fetchval(
            "SELECT version FROM products WHERE product_id = 'B'"
        )

    @pytest.mark.parametrize(
        "statement", ["UPDATE inventory SET on_hand = 7 WHERE location_id = 'L2'", "DELETE FROM inventory"]
    )
    async def test_other_changes_do_not(self, shop: Any, statement: str) -> None:
        since = await snapshot(shop)
        await shop.execute(statement)
        rows = await unread(shop, since)
        assert rows
        assert {(row["product"], row["product_version"]) for row in rows} == {(None, None)}

    async def test_come_from_the_snapshot_of_the_statement(self, shop: Any) -> None:
        """Not from the time when the row was written."""
        since = await snapshot(shop)
        await shop.execute(
            "INSERT INTO inventory (product_id, location_id, vendor_id) VALUES ('B', 'L2', 'V')"
        )
        await shop.execute("UPDATE products SET name = 'Rye' WHERE product_id = 'B'")
        await shop.execute("UPDATE locations SET active = false WHERE location_id = 'L2'")
        row, *_ = await unread(shop, since)
        assert (orjson.loads(row["product"])["name"], row["location_active"]) == ("Rye", False)

    async def test_of_sources_that_are_not_attached_any_more(self, shop: Any) -> None:
        since = await snapshot(shop)
        await shop.execute("UPDATE inventory SET on_hand = 7")
        await detach(shop, "inventory")
        rows = await unread(shop, since)
        assert {(row["source"], row["kind"]) for row in rows} == {("inventory", None)}

    async def test_stock_whose_topics_are_not_those_of_locations(self, shop: Any) -> None:
        inventory = next(source for source in default_sources() if source.name == "inventory")
        await attach(shop, inventory.model_copy(update={"topics": inventory.topics[:1]}))
        since = await snapshot(shop)
        await shop.execute("UPDATE products SET price_minor = 9 WHERE product_id = 'A'")
        [row] = await unread(shop, since)
        assert row["locations"] is None
