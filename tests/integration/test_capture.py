import asyncio
from datetime import datetime
from typing import Any

import asyncpg
import pytest

from listeners.postgres import NOTIFY_CHANNEL
from tests.support.capture import fill_shop, logged, session
from tests.support.waiting import eventually

INSERT = "INSERT INTO inventory (product_id, location_id, vendor_id) VALUES ('A', 'L1', 'V')"


@pytest.fixture
async def shop(pg: Any) -> Any:
    await fill_shop(pg)
    return pg


async def stock(connection: Any, product: str = "A", location: str = "L1") -> Any:
    return await connection.fetchrow(
        "SELECT * FROM inventory WHERE product_id = $1 AND location_id = $2", product, location
    )


def ops(rows: list[Any]) -> list[tuple[str, str]]:
    return [(row.op, row.key) for row in rows]


class TestInsert:
    async def test_logs_each_row_with_its_version(self, shop: Any) -> None:
        await shop.execute(
            "INSERT INTO inventory (product_id, location_id, vendor_id, on_hand, reserved)"
            " VALUES ('A', 'L2', 'V', 5, 2), ('B', 'L2', 'V', 6, 0)"
        )
        rows = await logged(shop)
        assert ops(rows) == [("I", "A:L2"), ("I", "B:L2")]
        first = await stock(shop, "A", "L2")
        assert rows[0].version == first["version"]
        # As a moment: Postgres leaves zeros at the end of a fraction out.
        assert datetime.fromisoformat(rows[0].item.pop("updated_at")) == first["updated_at"]
        assert rows[0].item == {
            "product_id": "A",
            "location_id": "L2",
            "vendor_id": "V",
            "on_hand": 5,
            "reserved": 2,
            "damaged": 0,
            "safety_stock": 0,
            "incoming": 0,
            "available": 3,
            "low_stock_at": None,
        }

    async def test_versions_rise(self, shop: Any) -> None:
        before = (await stock(shop))["version"]
        await shop.execute(
            "INSERT INTO products (product_id, vendor_id, name) VALUES ('C', 'V', 'c'), ('D', 'V', 'd')"
        )
        first, second = await logged(shop)
        assert before < first.version < second.version

    async def test_a_writer_can_not_set_version_or_time(self, shop: Any) -> None:
        await shop.execute(
            "INSERT INTO products (product_id, vendor_id, name, version, updated_at)"
            " VALUES ('C', 'V', 'c', 9007199254740991, '1999-01-01')"
        )
        [row] = await logged(shop)
        assert row.version < 1000
        assert not row.item["updated_at"].startswith("1999")

    async def test_products_carry_what_the_contract_names(self, shop: Any) -> None:
        await shop.execute(
            "INSERT INTO products (product_id, vendor_id, sku, name, category, price_minor, currency, status)"
            " VALUES ('C', 'V', 'S-1', 'Cheese', 'food', 1299, 'EUR', 'draft')"
        )
        [row] = await logged(shop)
        assert row.item.pop("updated_at")
        assert row.item == {
            "product_id": "C",
            "vendor_id": "V",
            "sku": "S-1",
            "name": "Cheese",
            "category": "food",
            "price_minor": 1299,
            "currency": "EUR",
            "status": "draft",
        }

    async def test_copy_is_an_insert_of_many(self, shop: Any) -> None:
        records = [(f"P{n}", "V", "name") for n in range(3000)]
        await shop.copy_records_to_table(
            "products", records=records, columns=["product_id", "vendor_id", "name"]
        )
        rows = await logged(shop)
        assert len(rows) == 3000
        assert len({row.version for row in rows}) == 3000

    async def test_of_nothing_logs_nothing(self, shop: Any) -> None:
        await shop.execute(
            "INSERT INTO products (product_id, vendor_id, name) SELECT 'X', 'V', 'x' WHERE false"
        )
        assert await logged(shop) == []

    async def test_times_are_in_utc_wherever_the_writer_lives(self, shop: Any) -> None:
        await shop.execute(
            "SET timezone = 'Asia/Kolkata'; SET datestyle = 'German'; SET intervalstyle = 'iso_8601'"
        )
        await shop.execute("UPDATE inventory SET on_hand = 11 WHERE product_id = 'A'")
        [row] = await logged(shop)
        assert row.item["updated_at"].endswith("+00:00")


class TestUpdate:
    async def test_logs_the_new_row_under_a_new_version(self, shop: Any) -> None:
        before = await stock(shop)
        await shop.execute("UPDATE inventory SET on_hand = 7 WHERE product_id = 'A'")
        after = await stock(shop)
        [row] = await logged(shop)
        assert ops([row]) == [("U", "A:L1")]
        assert (row.item["on_hand"], row.item["available"], row.gone) == (7, 7, None)
        assert row.version == after["version"] > before["version"]
        assert after["updated_at"] > before["updated_at"]

    @pytest.mark.parametrize(
        "change",
        [
            "on_hand = on_hand",
            "on_hand = 10, vendor_id = 'V'",
            "version = 1",
            "updated_at = '1999-01-01'",
            "version = 1, updated_at = now(), on_hand = 10",
            "available = DEFAULT",
        ],
    )
    async def test_that_changes_nothing_is_neither_stamped_nor_logged(self, shop: Any, change: str) -> None:
        before = await stock(shop)
        await shop.execute(f"UPDATE inventory SET {change} WHERE product_id = 'A'")
        assert await stock(shop) == before
        assert await logged(shop) == []

    async def test_a_writer_can_not_write_an_old_version_back(self, shop: Any) -> None:
        before = await stock(shop)
        await shop.execute(
            "UPDATE inventory SET on_hand = 8, version = $1 WHERE product_id = 'A'", before["version"] - 1
        )
        [row] = await logged(shop)
        assert row.version == (await stock(shop))["version"] > before["version"]

    async def test_logs_the_changed_rows_of_a_statement_only(self, shop: Any) -> None:
        await shop.execute("UPDATE inventory SET on_hand = CASE product_id WHEN 'A' THEN 3 ELSE on_hand END")
        assert ops(await logged(shop)) == [("U", "A:L1")]

    async def test_of_nothing_logs_nothing(self, shop: Any) -> None:
        await shop.execute("UPDATE inventory SET on_hand = 1 WHERE false")
        assert await logged(shop) == []

    async def test_each_column_counts(self, shop: Any) -> None:
        for column in ("on_hand", "reserved", "damaged", "safety_stock", "incoming", "low_stock_at"):
            await shop.execute(f"UPDATE inventory SET {column} = 5 WHERE product_id = 'A'")
            [row] = await logged(shop)
            assert row.item[column] == 5
            await shop.execute("UPDATE inventory SET on_hand = 10 WHERE product_id = 'A'")
            await logged(shop)
        await shop.execute("UPDATE inventory SET low_stock_at = NULL WHERE product_id = 'A'")
        [row] = await logged(shop)
        assert row.item["low_stock_at"] is None

    async def test_many_rows_after_a_plan_made_for_one(self, shop: Any) -> None:
        """A nested loop over both transition tables would take minutes here."""
        await shop.execute("UPDATE inventory SET on_hand = 9 WHERE product_id = 'A'")
        await shop.execute(
            "INSERT INTO products (product_id, vendor_id, name) SELECT 'P' || n, 'V', 'p'"
            " FROM generate_series(1, 20000) n"
        )
        await logged(shop)
        await shop.execute("UPDATE products SET price_minor = 5 WHERE product_id = 'A'")
        await shop.execute("UPDATE products SET price_minor = 7", timeout=20)
        assert len(await logged(shop)) == 20003


class TestChangeOfKeyOrTopic:
    async def test_a_changed_key_is_a_departure_and_an_arrival(self, shop: Any) -> None:
        before = await stock(shop)
        await shop.execute("UPDATE inventory SET location_id = 'L2' WHERE product_id = 'A'")
        rows = sorted(await logged(shop), key=lambda row: row.op)
        assert ops(rows) == [("D", "A:L1"), ("I", "A:L2")]
        assert rows[1].version == (await stock(shop, "A", "L2"))["version"]
        assert rows[0].version is not None
        assert rows[0].version > before["version"]
        assert rows[0].version != rows[1].version

    async def test_rows_that_follow_each_other_through_keys(self, shop: Any) -> None:
        """A goes to L2, B takes the place of A: each key gets one word, and it is the last one."""
        await shop.execute(
            "ALTER TABLE inventory DROP CONSTRAINT inventory_pkey,"
            " DROP CONSTRAINT inventory_product_id_vendor_id_fkey,"
            " ADD PRIMARY KEY (product_id, location_id) DEFERRABLE"
        )
        await shop.execute(
            "UPDATE inventory SET product_id = CASE product_id WHEN 'A' THEN 'B' ELSE 'C' END, on_hand = 1"
        )
        assert sorted(ops(await logged(shop))) == [("D", "A:L1"), ("I", "C:L1"), ("U", "B:L1")]

    async def test_a_product_with_a_new_vendor_leaves_the_old_vendors_topic(self, shop: Any) -> None:
        await shop.execute("DELETE FROM inventory WHERE product_id = 'A'")
        await logged(shop)
        await shop.execute("UPDATE products SET vendor_id = 'W' WHERE product_id = 'A'")
        [row] = await logged(shop)
        assert ops([row]) == [("U", "A")]
        assert (row.item["vendor_id"], row.gone) == ("W", ["vendor:V"])

    async def test_a_changed_product_key_cascades_to_its_stock(self, shop: Any) -> None:
        await shop.execute("UPDATE products SET product_id = 'Z' WHERE product_id = 'A'")
        assert sorted(ops(await logged(shop))) == [("D", "A"), ("D", "A:L1"), ("I", "Z"), ("I", "Z:L1")]


class TestDelete:
    async def test_logs_a_tombstone_with_the_old_row_and_a_version_of_its_own(self, shop: Any) -> None:
        before = await stock(shop)
        await shop.execute("DELETE FROM inventory WHERE product_id = 'A'")
        [row] = await logged(shop)
        assert ops([row]) == [("D", "A:L1")]
        assert row.item["vendor_id"] == "V"
        assert row.version is not None
        assert row.version > before["version"]

    async def test_cascades(self, shop: Any) -> None:
        await shop.execute("DELETE FROM products WHERE product_id = 'A'")
        assert sorted(ops(await logged(shop))) == [("D", "A"), ("D", "A:L1")]

    async def test_of_nothing_logs_nothing(self, shop: Any) -> None:
        await shop.execute("DELETE FROM inventory WHERE false")
        assert await logged(shop) == []

    async def test_and_insert_again_in_one_transaction(self, shop: Any) -> None:
        async with shop.transaction():
            await shop.execute("DELETE FROM inventory WHERE product_id = 'A'")
            await shop.execute(
                "INSERT INTO inventory (product_id, location_id, vendor_id) VALUES ('A', 'L1', 'V')"
            )
        gone, back = await logged(shop)
        assert (gone.op, back.op) == ("D", "I")
        assert gone.version < back.version

    async def test_and_insert_again_in_one_statement(self, shop: Any) -> None:
        await shop.execute(
            "WITH gone AS (DELETE FROM products WHERE product_id = 'B' RETURNING *)"
            " INSERT INTO products (product_id, vendor_id, name)"
            " SELECT product_id, vendor_id, 'new' FROM gone"
        )
        rows = [row for row in await logged(shop) if row.source == "products"]
        assert ops(rows) == [("D", "B"), ("I", "B")]


class TestUpsert:
    UPSERT = (
        "INSERT INTO inventory (product_id, location_id, vendor_id, on_hand) VALUES ('A', $1, 'V', $2)"
        " ON CONFLICT (product_id, location_id) DO UPDATE SET on_hand = excluded.on_hand"
    )

    async def test_that_inserts(self, shop: Any) -> None:
        await shop.execute(self.UPSERT, "L2", 4)
        assert ops(await logged(shop)) == [("I", "A:L2")]

    async def test_that_updates(self, shop: Any) -> None:
        await shop.execute(self.UPSERT, "L1", 4)
        [row] = await logged(shop)
        assert ops([row]) == [("U", "A:L1")]
        assert row.version == (await stock(shop))["version"]

    async def test_that_changes_nothing(self, shop: Any) -> None:
        before = await stock(shop)
        await shop.execute(self.UPSERT, "L1", 10)
        assert await logged(shop) == []
        assert await stock(shop) == before

    async def test_that_does_both_in_one_statement(self, shop: Any) -> None:
        await shop.execute(
            "INSERT INTO inventory (product_id, location_id, vendor_id, on_hand)"
            " VALUES ('A', 'L1', 'V', 1), ('A', 'L2', 'V', 1)"
            " ON CONFLICT (product_id, location_id) DO UPDATE SET on_hand = excluded.on_hand"
        )
        assert sorted(ops(await logged(shop))) == [("I", "A:L2"), ("U", "A:L1")]

    async def test_do_nothing(self, shop: Any) -> None:
        await shop.execute(f"{INSERT} ON CONFLICT DO NOTHING")
        assert await logged(shop) == []

    async def test_merge(self, shop: Any) -> None:
        if shop.get_server_version().major < 15:
            pytest.skip("MERGE came with Postgres 15")
        await shop.execute(
            "MERGE INTO inventory i"
            " USING (VALUES ('A', 'L1', 3), ('A', 'L2', 4), ('B', 'L1', 0)) AS s (p, l, n)"
            " ON i.product_id = s.p AND i.location_id = s.l"
            " WHEN MATCHED AND s.n = 0 THEN DELETE"
            " WHEN MATCHED THEN UPDATE SET on_hand = s.n"
            " WHEN NOT MATCHED THEN"
            " INSERT (product_id, location_id, vendor_id, on_hand) VALUES (s.p, s.l, 'V', s.n)"
        )
        assert sorted(ops(await logged(shop))) == [("D", "B:L1"), ("I", "A:L2"), ("U", "A:L1")]


class TestTruncate:
    async def test_logs_a_marker(self, shop: Any) -> None:
        await shop.execute("TRUNCATE inventory")
        [row] = await logged(shop)
        assert (row.source, row.op, row.item) == ("inventory", "T", {})

    async def test_cascades(self, shop: Any) -> None:
        await shop.execute("TRUNCATE products CASCADE")
        assert sorted((row.source, row.op) for row in await logged(shop)) == [
            ("inventory", "T"),
            ("products", "T"),
        ]


class TestTransactions:
    async def test_a_rollback_takes_the_log_with_it(self, shop: Any) -> None:
        transaction = shop.transaction()
        await transaction.start()
        await shop.execute("UPDATE inventory SET on_hand = 1")
        await transaction.rollback()
        assert await logged(shop) == []

    async def test_so_does_a_savepoint(self, shop: Any) -> None:
        await shop.execute(
            "BEGIN; UPDATE inventory SET on_hand = 1 WHERE product_id = 'A';"
            "SAVEPOINT s; UPDATE inventory SET on_hand = 2; ROLLBACK TO s;"
            "UPDATE inventory SET on_hand = 3 WHERE product_id = 'B'; COMMIT"
        )
        assert [(row.key, row.item["on_hand"]) for row in await logged(shop)] == [("A:L1", 1), ("B:L1", 3)]

    async def test_all_rows_bear_the_id_of_the_whole_transaction(self, shop: Any) -> None:
        async with shop.transaction():
            await shop.execute("UPDATE inventory SET on_hand = 1")
            async with shop.transaction():
                await shop.execute("UPDATE products SET price_minor = 1")
            own = await shop.fetchval("SELECT pg_current_xact_id()::text")
        assert await shop.fetch("SELECT DISTINCT xid::text FROM gateway.change_log") == [(own,)]

    async def test_ids_follow_the_order_in_which_a_key_was_written(
        self, shop: Any, database_url: str
    ) -> None:
        """An INSERT is stamped, waits for a transaction that deletes its key, and then draws its id."""
        async with session(database_url) as other, session(database_url) as observer:
            transaction = shop.transaction()
            await transaction.start()
            await shop.execute("UPDATE inventory SET on_hand = 1 WHERE product_id = 'A'")
            insert = other.execute(INSERT)
            waiting = asyncio.ensure_future(insert)
            await eventually(
                lambda: observer.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
            )
            await shop.execute("DELETE FROM inventory WHERE product_id = 'A'")
            await transaction.commit()
            await waiting
        _, gone, back = await logged(shop)
        assert (gone.op, back.op) == ("D", "I")
        assert gone.version > back.version  # which is why the log goes by ids


class TestLocations:
    async def test_log_only_changes_of_mapped_columns(self, shop: Any) -> None:
        await shop.execute("UPDATE locations SET name = 'Renamed', timezone = 'Europe/Oslo'")
        assert await logged(shop) == []
        await shop.execute("UPDATE locations SET active = (location_id = 'L1')")
        [row] = await logged(shop)
        assert (row.op, row.item) == ("U", {"location_id": "L2", "active": False})

    async def test_log_arrivals_departures_and_new_keys(self, shop: Any) -> None:
        await shop.execute("INSERT INTO locations (location_id, vendor_id, name) VALUES ('L3', 'V', 'Three')")
        await shop.execute("UPDATE locations SET location_id = 'L4' WHERE location_id = 'L3'")
        await shop.execute("DELETE FROM locations WHERE location_id = 'L4'")
        rows = await logged(shop)
        assert sorted((row.op, row.item["location_id"]) for row in rows) == [
            ("D", "L3"),
            ("D", "L4"),
            ("I", "L3"),
            ("I", "L4"),
        ]
        assert len({row.version for row in rows}) == 4


class TestCanary:
    async def test_a_beat_is_logged_with_the_time_before_its_commit(self, pg: Any) -> None:
        await logged(pg)
        before = await pg.fetchval("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint")
        await pg.execute("UPDATE gateway.canary SET beat = beat + 1")
        after = await pg.fetchval("SELECT ceil(extract(epoch FROM clock_timestamp()) * 1000)::bigint")
        [row] = await logged(pg)
        assert (row.source, row.op, row.item["beat"]) == ("canary", "C", 1)
        assert before <= row.item["as_of_ms"] <= after


class TestWakeUp:
    @pytest.fixture
    async def heard(self, shop: Any) -> Any:
        notes: list[str] = []
        await shop.add_listener(NOTIFY_CHANNEL, lambda *note: notes.append(note[3]))
        return notes

    async def test_a_sleeping_relay_is_woken_once_a_transaction(self, shop: Any, heard: list[str]) -> None:
        await shop.execute("UPDATE gateway.control SET relay_asleep = true")
        async with shop.transaction():
            await shop.execute("UPDATE inventory SET on_hand = 1")
            await shop.execute("DELETE FROM inventory")
        await eventually(lambda: heard)
        assert heard == [""]

    @pytest.mark.parametrize(
        ("control", "statement"),
        [
            ("relay_asleep = false", "UPDATE inventory SET on_hand = 1"),
            ("relay_asleep = true, notify = 'off'", "UPDATE inventory SET on_hand = 1"),
            ("relay_asleep = true", "UPDATE inventory SET on_hand = on_hand"),
        ],
    )
    async def test_nobody_is_woken_for_nothing(
        self, shop: Any, heard: list[str], control: str, statement: str
    ) -> None:
        await shop.execute(f"UPDATE gateway.control SET {control}")
        await shop.execute(statement)
        await shop.execute(f"NOTIFY {NOTIFY_CHANNEL}, 'the end'")
        await eventually(lambda: heard)
        assert heard == ["the end"]


class TestNoRelayForTooLong:
    async def test_logging_stops_and_the_loss_is_visible(self, shop: Any) -> None:
        await shop.execute("UPDATE gateway.control SET relay_seen_at = now() - interval '25 hours'")
        before = await shop.fetchrow("SELECT last_value, is_called FROM gateway.loss_seq")
        await shop.execute("UPDATE inventory SET on_hand = 1")
        assert await logged(shop) == []
        assert await shop.fetchrow("SELECT last_value, is_called FROM gateway.loss_seq") != before

    async def test_versions_are_stamped_all_the_same(self, shop: Any) -> None:
        before = await stock(shop)
        await shop.execute("UPDATE gateway.control SET relay_seen_at = now() - interval '25 hours'")
        await shop.execute("UPDATE inventory SET on_hand = 1")
        assert (await stock(shop))["version"] > before["version"]

    async def test_the_retention_is_a_setting(self, shop: Any) -> None:
        await shop.execute(
            "UPDATE gateway.control"
            " SET relay_seen_at = now() - interval '25 hours', log_retention = '26 hours'"
        )
        await shop.execute("UPDATE inventory SET on_hand = 1")
        assert len(await logged(shop)) == 2


class TestReferenceSchema:
    @pytest.mark.parametrize(
        "statement",
        [
            "INSERT INTO products (product_id, vendor_id, name) VALUES ('a b', 'V', 'x')",
            "INSERT INTO products (product_id, vendor_id, name) VALUES ('', 'V', 'x')",
            "INSERT INTO products (product_id, vendor_id, name, price_minor) VALUES ('C', 'V', 'x', -1)",
            "INSERT INTO products (product_id, vendor_id, name, status) VALUES ('C', 'V', 'x', 'lost')",
            "INSERT INTO vendors (vendor_id, name, status) VALUES ('X', 'x', 'gone')",
            "INSERT INTO locations (location_id, vendor_id, name, kind) VALUES ('X', 'V', 'x', 'moon')",
            "UPDATE inventory SET on_hand = -1",
            "UPDATE inventory SET reserved = 6, damaged = 5",
            "UPDATE inventory SET low_stock_at = -1",
        ],
    )
    async def test_checks(self, shop: Any, statement: str) -> None:
        with pytest.raises(asyncpg.CheckViolationError):
            await shop.execute(statement)

    async def test_a_row_between_two_vendors_can_not_exist(self, shop: Any) -> None:
        await shop.execute("INSERT INTO locations (location_id, vendor_id, name) VALUES ('LW', 'W', 'Other')")
        for vendor in ("V", "W"):
            with pytest.raises(asyncpg.ForeignKeyViolationError):
                await shop.execute(
                    "INSERT INTO inventory (product_id, location_id, vendor_id) VALUES ('A', 'LW', $1)",
                    vendor,
                )
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await shop.execute("UPDATE products SET vendor_id = 'W' WHERE product_id = 'A'")

    async def test_updates_of_quantities_stay_on_their_page(self, shop: Any) -> None:
        for _ in range(20):
            await shop.execute("UPDATE inventory SET on_hand = on_hand + 1")
        await shop.execute(
            "SELECT pg_stat_force_next_flush()" if shop.get_server_version().major >= 15 else "SELECT 1"
        )
        hot = await shop.fetchrow(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'inventory'"
        )
        assert hot["n_tup_hot_upd"] == hot["n_tup_upd"]
