import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from listeners.attach import attach
from listeners.embedded import PostgresServer
from listeners.migrations import migrate
from listeners.sources import Source
from tests.support.capture import fill_shop, logged, session
from tests.support.servers import POSTGRES_SETTINGS, server_directory
from tests.support.waiting import eventually

TAKE = "UPDATE inventory SET on_hand = on_hand - 1 WHERE (product_id, location_id) = ($1, 'L1')"
SOMEBODY_WAITS = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
ODD = 'public."Odd Stock"'
ODD_KEY = '"the ""Key"""'
NOT_FOR_JSONB = ('{"a":"\\u0000"}', '"\\ud800"', "1e999999", '{"a":1,"a":2}')


@pytest.fixture
async def shop(pg: Any) -> Any:
    await fill_shop(pg)
    return pg


@pytest.fixture
async def clerk(shop: Any, database_url: str) -> AsyncIterator[Any]:
    """A session of a role that has rights on the shop's tables and none on our schema."""
    role = f"clerk_{secrets.token_hex(6)}"
    await shop.execute(
        f"CREATE ROLE {role};"
        f"GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO {role};"
        f"GRANT CREATE, TEMPORARY ON DATABASE {database_url.rpartition('/')[2]} TO {role}"
    )
    try:
        async with session(database_url) as connection:
            await connection.execute(f"SET ROLE {role}")
            yield connection
    finally:
        await shop.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


class TestRoleWithoutRights:
    async def test_may_not_even_look_at_our_schema(self, clerk: Any) -> None:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await clerk.fetch("SELECT * FROM gateway.change_log")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await clerk.fetch("SELECT gateway.number('1')")

    async def test_may_write_as_ever(self, clerk: Any, shop: Any) -> None:
        await clerk.execute("INSERT INTO products (product_id, vendor_id, name) VALUES ('C', 'V', 'Cheese')")
        await clerk.execute("UPDATE inventory SET on_hand = 3")
        await clerk.execute("DELETE FROM products WHERE product_id = 'B'")
        await clerk.execute("TRUNCATE inventory")
        assert [row.op for row in await logged(shop)] == ["I", "U", "U", "D", "D", "T"]

    async def test_can_not_slip_its_own_names_into_our_functions(self, clerk: Any, shop: Any) -> None:
        """The functions run with rights that the role does not have."""
        await clerk.execute(
            """
            CREATE SCHEMA mine;
            CREATE FUNCTION mine.to_jsonb(anyelement) RETURNS jsonb LANGUAGE plpgsql AS
                $$ BEGIN RAISE 'caught'; END $$;
            CREATE FUNCTION mine.nextval(regclass) RETURNS bigint LANGUAGE plpgsql AS
                $$ BEGIN RAISE 'caught'; END $$;
            CREATE FUNCTION mine.jsonb_populate_record(anyelement, jsonb) RETURNS anyelement
                LANGUAGE plpgsql AS $$ BEGIN RAISE 'caught'; END $$;
            CREATE FUNCTION mine.differ(record, record) RETURNS boolean LANGUAGE plpgsql AS
                $$ BEGIN RAISE 'caught'; END $$;
            CREATE OPERATOR mine.*<> (LEFTARG = record, RIGHTARG = record, FUNCTION = mine.differ);
            CREATE TEMPORARY TABLE new_rows (product_id text);
            CREATE TYPE pg_temp.jsonb AS (x int);
            SET search_path = mine, pg_catalog, public;
            """
        )
        await clerk.execute("UPDATE public.inventory SET on_hand = 3")
        assert [row.op for row in await logged(shop)] == ["U", "U"]


class TestWritersAtOnce:
    UPSERT = (
        "INSERT INTO inventory (product_id, location_id, vendor_id, on_hand) VALUES ($1, 'L1', 'V', $2)"
        " ON CONFLICT (product_id, location_id) DO UPDATE SET on_hand = excluded.on_hand"
    )

    async def test_upserts_in_opposite_orders_deadlock_only_where_the_bare_table_does(
        self, shop: Any, database_url: str
    ) -> None:
        """With a transaction for each row the bare table has none."""

        async def writer(connection: Any, products: str, turns: int) -> None:
            for turn in range(turns):
                for product in products:
                    await connection.execute(self.UPSERT, product, turn)

        async with session(database_url) as one, session(database_url) as two:
            await asyncio.gather(writer(one, "AB", 100), writer(two, "BA", 100))
        assert all(row.op == "U" for row in await logged(shop))

    async def test_a_true_deadlock_is_told_to_one_of_the_two(self, shop: Any, database_url: str) -> None:
        async def writer(connection: Any, first: str, second: str, met: asyncio.Barrier) -> None:
            async with connection.transaction():
                await connection.execute(self.UPSERT, first, 1)
                await met.wait()
                await connection.execute(self.UPSERT, second, 2)

        met = asyncio.Barrier(2)
        async with session(database_url) as one, session(database_url) as two:
            results = await asyncio.gather(
                writer(one, "A", "B", met), writer(two, "B", "A", met), return_exceptions=True
            )
        assert [type(result) for result in results if result] == [asyncpg.DeadlockDetectedError]

    @pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
    async def test_writers_of_different_rows_do_not_disturb_each_other(
        self, shop: Any, database_url: str, isolation: Any
    ) -> None:
        """Our tables are the only thing that both touch."""
        async with session(database_url) as one, session(database_url) as two:
            first, second = one.transaction(isolation=isolation), two.transaction(isolation=isolation)
            await first.start()
            await second.start()
            await one.execute(TAKE, "A")
            await shop.execute("UPDATE gateway.control SET relay_asleep = NOT relay_asleep")
            await two.execute(TAKE, "B")
            await second.commit()
            await first.commit()
        assert sorted(row.key for row in await logged(shop)) == ["A:L1", "B:L1"]

    async def test_repeatable_read_still_refuses_a_lost_update(self, shop: Any, database_url: str) -> None:
        async with session(database_url) as other:
            await other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM inventory")
            await shop.execute("UPDATE inventory SET on_hand = 5 WHERE product_id = 'A'")
            with pytest.raises(asyncpg.SerializationError):
                await other.execute("UPDATE inventory SET on_hand = 6 WHERE product_id = 'A'")

    async def test_a_waiting_writer_sees_the_newest_row(self, shop: Any, database_url: str) -> None:
        """READ COMMITTED: the trigger of the second sees what the first has made of the row."""
        async with session(database_url) as other, session(database_url) as observer:
            transaction = shop.transaction()
            await transaction.start()
            await shop.execute(TAKE, "A")
            waiting = asyncio.ensure_future(other.execute(TAKE, "A"))
            await eventually(lambda: observer.fetchval(SOMEBODY_WAITS))
            await transaction.commit()
            await waiting
        first, second = await logged(shop)
        assert (first.item["on_hand"], second.item["on_hand"]) == (9, 8)
        assert first.version < second.version


class TestLongTransactions:
    async def test_do_not_overflow_the_subtransactions_of_a_backend(
        self, shop: Any, database_url: str
    ) -> None:
        if shop.get_server_version().major < 16:
            pytest.skip("pg_stat_get_backend_subxact came with Postgres 16")
        async with session(database_url) as other, other.transaction():
            for turn in range(100):
                await other.execute("UPDATE inventory SET on_hand = $1", turn)
            counts = await shop.fetchrow(
                "SELECT s.* FROM pg_stat_get_backend_idset() i, pg_stat_get_backend_subxact(i) s"
                " WHERE pg_stat_get_backend_pid(i) = $1",
                other.get_server_pid(),
            )
        assert tuple(counts) == (0, False)


@asynccontextmanager
async def prepared(server_settings: dict[str, str]) -> AsyncIterator[str]:
    with server_directory() as directory:
        server = PostgresServer(directory, settings=server_settings)
        await server.start()
        try:
            await migrate(server.url)
            yield server.url
        finally:
            await server.stop()


class TestPrepareTransaction:
    async def test_works_while_the_relay_sleeps(self) -> None:
        """It fails after a NOTIFY, so auto means off where prepared transactions are possible."""
        settings = POSTGRES_SETTINGS | {"max_prepared_transactions": "10"}
        async with prepared(settings) as url, session(url) as shop:
            await fill_shop(shop)
            await shop.execute("UPDATE gateway.control SET relay_asleep = true")
            await shop.execute("BEGIN; UPDATE inventory SET on_hand = 4; PREPARE TRANSACTION 'sale'")
            assert await logged(shop) == []
            await shop.execute("COMMIT PREPARED 'sale'")
            assert [row.op for row in await logged(shop)] == ["U", "U"]


class TestAlterTable:
    """In a session whose plans are cached already."""

    @pytest.fixture
    async def writer(self, shop: Any, database_url: str) -> AsyncIterator[Any]:
        async with session(database_url) as connection:
            for turn in range(8):
                await connection.execute("UPDATE inventory SET on_hand = $1 WHERE product_id = 'A'", turn)
                await connection.execute("UPDATE products SET price_minor = $1", turn)
            await logged(shop)
            yield connection

    @staticmethod
    async def write(writer: Any, shop: Any) -> list[Any]:
        """Every kind of statement once. Returns what was logged."""
        await writer.execute(
            "INSERT INTO products (product_id, vendor_id, name) VALUES ('X', 'V', 'x'), ('Y', 'V', 'y')"
        )
        await writer.execute("UPDATE products SET name = name || '!' WHERE product_id = 'X'")
        await writer.execute("UPDATE products SET name = name WHERE product_id = 'X'")
        await writer.execute("UPDATE products SET product_id = 'Z' WHERE product_id = 'Y'")
        await writer.execute("DELETE FROM products WHERE product_id = 'X'")
        await writer.execute("DELETE FROM products WHERE product_id = 'Z'")
        return await logged(shop)

    async def test_add_a_column(self, writer: Any, shop: Any) -> None:
        await shop.execute("ALTER TABLE products ADD note text DEFAULT 'none'")
        assert len(await self.write(writer, shop)) == 7

    @pytest.mark.parametrize("column", ["sku", "category", "price_minor", "currency", "status"])
    async def test_drop_a_mapped_column(self, writer: Any, shop: Any, column: str) -> None:
        await shop.execute(f"ALTER TABLE products DROP COLUMN {column}")
        rows = await self.write(writer, shop)
        assert len(rows) == 7
        left = 0 if column == "price_minor" else None  # a number that must be there counts as 0
        assert all(row.item[column] == left for row in rows)

    async def test_drop_the_stamped_columns(self, writer: Any, shop: Any) -> None:
        """Whoever drops our column loses the stamps, and nothing else: even a version comes with each row."""
        await shop.execute("ALTER TABLE products DROP COLUMN version, DROP COLUMN updated_at")
        rows = await self.write(writer, shop)
        assert all(row.version for row in rows)

    async def test_rename_a_column(self, writer: Any, shop: Any) -> None:
        await shop.execute("ALTER TABLE products RENAME sku TO article_number")
        assert len(await self.write(writer, shop)) == 7

    @pytest.mark.parametrize(
        "change",
        [
            "price_minor TYPE text USING 'about ' || price_minor",
            "price_minor TYPE numeric(12, 2)",
            "sku TYPE varchar(40)",
            "category TYPE json USING '\"x\"'",
            "updated_at TYPE text",
        ],
    )
    async def test_change_the_type_of_a_column(self, writer: Any, shop: Any, change: str) -> None:
        await shop.execute(
            "ALTER TABLE products DROP CONSTRAINT products_price_minor_check, ALTER price_minor DROP DEFAULT,"
            " ALTER price_minor DROP NOT NULL, ALTER category DROP DEFAULT, ALTER category DROP NOT NULL,"
            " ALTER updated_at DROP DEFAULT,"
            f" ALTER {change}"
        )
        assert len(await self.write(writer, shop)) == 7

    async def test_change_the_type_of_the_key(self, writer: Any, shop: Any) -> None:
        await shop.execute("DROP TABLE inventory; ALTER TABLE products ALTER product_id TYPE varchar(70)")
        assert len(await self.write(writer, shop)) == 7

    async def test_a_generated_column_can_be_dropped(self, writer: Any, shop: Any) -> None:
        await shop.execute("ALTER TABLE inventory DROP COLUMN available")
        await writer.execute("UPDATE inventory SET on_hand = 9 WHERE product_id = 'A'")
        assert [row.op for row in await logged(shop)] == ["U"]

    async def test_the_table_can_be_dropped(self, writer: Any, shop: Any) -> None:
        await shop.execute("DROP TABLE inventory, products")
        await writer.execute("UPDATE vendors SET name = 'x'")

    async def test_rename_the_table(self, writer: Any, shop: Any) -> None:
        await shop.execute("ALTER TABLE products RENAME TO articles")
        await writer.execute("UPDATE articles SET name = 'x' WHERE product_id = 'A'")
        assert [row.op for row in await logged(shop)] == ["U"]


class TestOddTables:
    """A table with whatever types Postgres has; only some of its columns are mapped."""

    SOURCE = Source.model_validate(
        {
            "name": "odd",
            "kind": "stock",
            "table": "Odd Stock",
            "columns": {
                "product_id": 'the "Key"',
                "location_id": {"value": "main"},
                "vendor_id": {"value": "V"},
                "on_hand": "lost",
            },
        }
    )

    @pytest.fixture
    async def odd(self, pg: Any) -> Any:
        """Names as our functions' own variables and aliases have them, and types without an equality."""
        await pg.execute(
            f"""
            CREATE DOMAIN public.always AS text NOT NULL DEFAULT 'x' CHECK (value <> '');
            CREATE TABLE {ODD} (
                {ODD_KEY} text PRIMARY KEY, lost int, wake json, n point, o xml, s public.always DEFAULT 'x',
                here jsonb, "select" int[] DEFAULT '{{1}}', d tsvector,
                g int GENERATED ALWAYS AS (lost * 2) STORED,
                h public.always GENERATED ALWAYS AS ('h') STORED
            );
            """
        )
        await attach(pg, self.SOURCE)
        await logged(pg)
        return pg

    async def test_are_logged_by_what_is_mapped(self, odd: Any) -> None:
        await odd.execute(f"INSERT INTO {ODD} ({ODD_KEY}, lost, n) VALUES ('A', 3, '(1,2)')")
        await odd.execute(f"UPDATE {ODD} SET lost = 4")
        first, second = await logged(odd)
        assert (first.op, first.item["product_id"], first.item["on_hand"]) == ("I", "A", 3)
        assert (second.op, second.item["product_id"], second.item["on_hand"]) == ("U", "A", 4)

    async def test_json_that_jsonb_would_not_take_fails_nobody(self, odd: Any) -> None:
        await odd.execute(f"INSERT INTO {ODD} ({ODD_KEY}, wake) VALUES ('A', $1)", NOT_FOR_JSONB[0])
        for value in NOT_FOR_JSONB:
            await odd.execute(f"UPDATE {ODD} SET wake = $1, lost = coalesce(lost, 0) + 1", value)
        await odd.execute(f"DELETE FROM {ODD}")
        assert [row.op for row in await logged(odd)] == ["I", "U", "U", "U", "U", "D"]

    async def test_nothing_to_count_counts_as_none(self, odd: Any) -> None:
        await odd.execute(f"INSERT INTO {ODD} ({ODD_KEY}) VALUES ('A')")
        [row] = await logged(odd)
        assert (row.item["on_hand"], row.item["available"], row.item["low_stock_at"]) == (0, 0, None)


class TestUnmappedColumns:
    SOURCE = Source.model_validate(
        {
            "name": "things",
            "kind": "product",
            "table": "things",
            "columns": {"product_id": "id", "vendor_id": {"value": "V"}, "name": "title"},
        }
    )

    @pytest.fixture
    async def things(self, pg: Any) -> Any:
        await pg.execute("CREATE TABLE public.things (id int PRIMARY KEY, title text, views int DEFAULT 0)")
        await attach(pg, self.SOURCE)
        await pg.execute("INSERT INTO things (id, title) VALUES (1, 'Thing')")
        await logged(pg)
        return pg

    async def test_do_not_count_as_a_change(self, things: Any) -> None:
        before = await things.fetchrow("SELECT * FROM things")
        await things.execute("UPDATE things SET views = views + 1")
        assert await logged(things) == []
        after = await things.fetchrow("SELECT * FROM things")
        assert (after["views"], after["gateway_version"]) == (1, before["gateway_version"])

    async def test_a_writer_that_sets_our_column_gets_a_version_of_ours(self, things: Any) -> None:
        before = await things.fetchval("SELECT gateway_version FROM things")
        await things.execute("UPDATE things SET views = views + 1, gateway_version = 1")
        [row] = await logged(things)
        assert row.version == await things.fetchval("SELECT gateway_version FROM things") > before

    async def test_columns_added_later_do(self, things: Any) -> None:
        """Nobody has said what they are for. Attaching again settles it."""
        await things.execute("ALTER TABLE things ADD clicks int")
        await things.execute("UPDATE things SET clicks = 1")
        assert [row.op for row in await logged(things)] == ["U"]
        await attach(things, self.SOURCE)
        await things.execute("UPDATE things SET clicks = 2")
        assert await logged(things) == []
