import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import asyncpg
import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from listeners.change_log import ChangeLog, LogRow, load_position, next_term, save_position
from listeners.errors import StaleTerm
from listeners.log_plan import load_plan
from listeners.mandate import prepare_reader
from listeners.postgres import Connection, connected
from listeners.source_sql import ReadSql

SESSIONS = 4


async def snapshot_of(connection: Any) -> str:
    text: str = await connection.fetchval("SELECT pg_current_snapshot()::text")
    return text


@pytest.fixture
async def reader(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url, purpose="test reader") as connection:
        await prepare_reader(connection)
        yield connection


@pytest.fixture
async def log(pg: Any) -> ChangeLog:
    await pg.execute("INSERT INTO vendors (vendor_id, name) VALUES ('V', 'Vendor')")
    return ChangeLog((await load_plan(pg)).read)


class Writer:
    """A session whose statements may have to wait for those of others.

    Its transactions end by themselves when they have waited for too long, as a deadlock's victim would.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._task: asyncio.Task[None] | None = None

    @property
    def waits(self) -> bool:
        return self._task is not None and not self._task.done()

    async def do(self, statement: str) -> None:
        """Returns when the statement has ended, or seems to wait. While another one waits it is dropped."""
        if self.waits:
            return
        self._task = asyncio.create_task(self._execute(statement))
        await asyncio.wait([self._task], timeout=0.02)

    async def _execute(self, statement: str) -> None:
        try:
            await self._connection.execute(statement)
        except asyncpg.PostgresError:
            await self._connection.execute("ROLLBACK")

    async def end(self, statement: str) -> None:
        if self._task is not None:
            await self._task
        await self._execute(statement)


class Reader:
    """Reads the log as the relay does, singly and in pages, and remembers what it got."""

    def __init__(self, connection: Any, log: ChangeLog, since: str) -> None:
        self._connection = connection
        self._log = log
        self._paged = ChangeLog(log.sql, limit=3)
        self.since = since
        self.rows: list[LogRow] = []

    async def read(self) -> None:
        async with self._connection.transaction(isolation="repeatable_read", readonly=True):
            batch = await self._log.read(self._connection, self.since)
            pages = [page async for page in self._paged.pages(self._connection, self.since)]
            few = await self._paged.read(self._connection, self.since)
        assert [row for page in pages for row in page.rows] == batch.rows
        assert {page.snapshot for page in pages} == {batch.snapshot}
        assert (few.rows, few.more) == (batch.rows[:3], len(batch.rows) > 3)
        self.rows += batch.rows
        self.since = batch.snapshot


def statement(action: str, key: str, value: int) -> str:
    product = f"'{key}', 'V', 's', 'n', {value}"
    insert = f"INSERT INTO products (product_id, vendor_id, sku, name, price_minor) VALUES ({product})"
    return {
        "begin": "BEGIN",
        "insert": insert,
        "upsert": f"{insert} ON CONFLICT (product_id) DO UPDATE SET price_minor = excluded.price_minor",
        "update": f"UPDATE products SET price_minor = {value} WHERE product_id = '{key}'",
        "rename": f"UPDATE products SET product_id = product_id || 'x' WHERE product_id = '{key}'",
        "delete": f"DELETE FROM products WHERE product_id = '{key}'",
        "savepoint": "SAVEPOINT s",
        "back": "ROLLBACK TO SAVEPOINT s",
        "commit": "COMMIT",
        "rollback": "ROLLBACK",
    }[action]


WEIGHTS = {"begin": 2, "insert": 2, "upsert": 2, "update": 2, "delete": 1, "rename": 1}
WEIGHTS |= {"savepoint": 1, "back": 1, "commit": 2, "rollback": 1, "read": 2}
ACTIONS = st.sampled_from([action for action, weight in WEIGHTS.items() for _ in range(weight)])
STEPS = st.lists(
    st.tuples(ACTIONS, st.integers(0, SESSIONS - 1), st.sampled_from("AB"), st.integers(1, 9)), max_size=40
)


class TestAgainstInterleavingsOfRealTransactions:
    """DESIGN 3.2: each committed row is read exactly once, whatever commits when."""

    # An insert that waits for another transaction's delete carries the older version, but the higher id.
    @example(
        [
            ("insert", 0, "A", 1),
            ("begin", 1, "A", 1),
            ("delete", 1, "A", 1),
            ("insert", 2, "A", 2),
            ("read", 0, "A", 1),
            ("commit", 1, "A", 1),
        ]
    )
    # The younger transaction commits first, and the older one is held open over two reads.
    @example(
        [
            ("begin", 0, "A", 1),
            ("insert", 0, "A", 1),
            ("insert", 1, "B", 1),
            ("read", 0, "A", 1),
            ("update", 1, "B", 2),
            ("read", 0, "A", 1),
            ("commit", 0, "A", 1),
        ]
    )
    @given(steps=STEPS)
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    async def test_every_committed_row_is_read_once_and_the_last_one_is_what_the_table_holds(
        self,
        database_url: str,
        pg: Any,
        reader: Connection,
        log: ChangeLog,
        steps: list[tuple[str, int, str, int]],
    ) -> None:
        await pg.execute("DELETE FROM products")
        read = Reader(reader, log, await snapshot_of(pg))
        first: int = await pg.fetchval("SELECT coalesce(max(id), 0) FROM gateway.change_log")
        async with AsyncExitStack() as stack:
            writers = [
                Writer(await stack.enter_async_context(connected(database_url, purpose="test writer")))
                for _ in range(SESSIONS)
            ]
            await asyncio.gather(*(writer.do("SET lock_timeout = '200ms'") for writer in writers))
            for action, number, key, value in steps:
                if action == "read":
                    await read.read()
                else:
                    await writers[number].do(statement(action, key, value))
            await asyncio.gather(*(writer.end("COMMIT") for writer in writers))
            await read.read()
        await self._check(pg, read.rows, first)

    async def _check(self, pg: Any, rows: list[LogRow], first: int) -> None:
        committed = await pg.fetch("SELECT id FROM gateway.change_log WHERE id > $1 ORDER BY id", first)
        assert sorted(row.id for row in rows) == [record["id"] for record in committed]
        newest = {
            orjson.loads(row.item or "")["product_id"]: row for row in sorted(rows, key=lambda row: row.id)
        }
        held = dict(await pg.fetch("SELECT product_id, version FROM products"))
        assert {key: row.version for key, row in newest.items() if row.op != "D"} == held


class TestReading:
    async def test_without_changes_only_the_snapshot_moves(
        self, pg: Any, reader: Connection, log: ChangeLog
    ) -> None:
        before = await snapshot_of(pg)
        await pg.execute("UPDATE vendors SET name = 'another'")
        batch = await log.read(reader, before)
        assert (batch.rows, batch.more) == ([], False)
        assert batch.snapshot != before
        assert [page.rows async for page in log.pages(reader, before)] == [[]]

    async def test_a_transaction_held_open_delays_nobody(
        self, database_url: str, pg: Any, reader: Connection, log: ChangeLog
    ) -> None:
        since = await snapshot_of(pg)
        async with connected(database_url, purpose="test writer") as other, other.transaction():
            await other.execute(statement("insert", "A", 1))
            await pg.execute(statement("insert", "B", 1))
            batch = await log.read(reader, since)
            assert ["B" in (row.item or "") for row in batch.rows] == [True]
        late = await log.read(reader, batch.snapshot)
        assert ["A" in (row.item or "") for row in late.rows] == [True]

    async def test_rows_come_by_id_and_no_more_than_the_limit(
        self, pg: Any, reader: Connection, log: ChangeLog
    ) -> None:
        since = await snapshot_of(pg)
        for number in range(5):
            await pg.execute(statement("insert", f"P{number}", 1))
        few = ChangeLog(log.sql, limit=3)
        batch = await few.read(reader, since)
        ids = [row.id for row in batch.rows]
        assert batch.more
        assert ids == sorted(ids)
        assert len(ids) == 3
        assert [len(page.rows) async for page in few.pages(reader, since)] == [3, 2]

    async def test_a_statement_with_other_columns_is_a_mistake(self, reader: Connection) -> None:
        other = ChangeLog(ReadSql("SELECT $1::text AS snapshot, $2::bigint AS id", "", ""))
        with pytest.raises(TypeError, match="columns"):
            await other.read(reader, "1:1:")

    async def test_look_ups_come_with_the_rows(self, pg: Any, reader: Connection, log: ChangeLog) -> None:
        await pg.execute(statement("insert", "A", 1))
        await pg.execute("INSERT INTO locations (location_id, vendor_id, name) VALUES ('L1', 'V', 'Shop')")
        since = await snapshot_of(pg)
        await pg.execute(
            "INSERT INTO inventory (product_id, location_id, vendor_id, on_hand) VALUES ('A', 'L1', 'V', 3)"
        )
        await pg.execute(statement("update", "A", 2))
        stock, product = (await log.read(reader, since)).rows
        assert (stock.kind, stock.location_active, stock.product_version) == ("stock", True, product.version)
        assert stock.product is not None
        assert (product.kind, product.locations, product.product) == ("product", ["L1"], None)

    async def test_look_ups_come_with_pages_too(self, pg: Any, reader: Connection, log: ChangeLog) -> None:
        since = await snapshot_of(pg)
        await pg.execute("INSERT INTO locations (location_id, vendor_id, name) VALUES ('L1', 'V', 'Shop')")
        await pg.execute(statement("insert", "A", 1))
        await pg.execute(
            "INSERT INTO inventory (product_id, location_id, vendor_id, on_hand) VALUES ('A', 'L1', 'V', 3)"
        )
        await pg.execute("DELETE FROM inventory")
        location, product, stock, tombstone = (await log.read(reader, since)).rows
        [page] = [page async for page in log.pages(reader, since)]
        assert page.rows == [location, product, stock, tombstone._replace(location_active=None)]

    async def test_one_row_of_a_page_asks_for_all_of_its_location(
        self, pg: Any, reader: Connection, log: ChangeLog
    ) -> None:
        await pg.execute(
            """
            INSERT INTO locations (location_id, vendor_id, name, active)
                VALUES ('L1', 'V', 'One', true), ('L2', 'V', 'Two', false);
            INSERT INTO products (product_id, vendor_id, name)
                VALUES ('A', 'V', 'a'), ('B', 'V', 'b'), ('C', 'V', 'c');
            INSERT INTO inventory (product_id, location_id, vendor_id, on_hand)
                SELECT product_id, location_id, 'V', 9 FROM products, locations WHERE product_id <> 'C';
            """
        )
        since = await snapshot_of(pg)
        await pg.execute("UPDATE inventory SET on_hand = on_hand - 1")
        await pg.execute("INSERT INTO inventory (product_id, location_id, vendor_id) VALUES ('C', 'L2', 'V')")
        await pg.execute("UPDATE inventory SET on_hand = on_hand - 1 WHERE on_hand > 0")
        rows = (await log.read(reader, since)).rows
        flags = {(orjson.loads(row.item or b"")["location_id"], row.location_active) for row in rows}
        assert flags == {("L1", True), ("L2", False)}
        asked: list[Any] = []
        reader.add_query_logger(lambda logged: asked.append(logged.args))
        [page] = [page async for page in log.pages(reader, since)]
        assert page.rows == rows
        look_up = next(args for args in asked if len(args) == 5)
        assert len(look_up[0]) == 3, "one for each location, and the row that came into a topic"

    async def test_a_page_may_have_nothing_to_look_up(
        self, pg: Any, reader: Connection, log: ChangeLog
    ) -> None:
        since = await snapshot_of(pg)
        await pg.execute("INSERT INTO locations (location_id, vendor_id, name) VALUES ('L1', 'V', 'Shop')")
        rows = (await log.read(reader, since)).rows
        assert [row.kind for row in rows] == ["location"]
        assert [page.rows async for page in log.pages(reader, since)] == [rows]

    async def test_pages_that_are_not_all_read_are_in_nobodys_way(
        self, pg: Any, reader: Connection, log: ChangeLog
    ) -> None:
        since = await snapshot_of(pg)
        for number in range(5):
            await pg.execute(statement("insert", f"P{number}", 1))
        few = ChangeLog(log.sql, limit=2)
        async with aclosing(few.pages(reader, since)) as pages:
            assert len((await anext(pages)).rows) == 2
        assert [len(page.rows) async for page in few.pages(reader, since)] == [2, 2, 1]

    async def test_a_large_backlog_locks_no_table_of_the_shop(
        self, pg: Any, reader: Connection, log: ChangeLog
    ) -> None:
        """Whoever alters one would wait for its end, and everybody behind him."""
        since = await snapshot_of(pg)
        for number in range(5):
            await pg.execute(statement("insert", f"P{number}", 1))
        async with aclosing(ChangeLog(log.sql, limit=2).pages(reader, since)) as pages:
            await anext(pages)
            await pg.execute("SET lock_timeout = 100; TRUNCATE products, inventory; RESET lock_timeout")
            assert len((await anext(pages)).rows) == 2

    async def test_what_is_no_snapshot_is_refused(self, reader: Connection, log: ChangeLog) -> None:
        with pytest.raises(ValueError, match="no pg_snapshot"):
            await anext(log.pages(reader, "1:1:'; DROP"))

    @pytest.mark.parametrize("rows", [0, 50_000])
    async def test_a_read_does_not_scan_the_log(
        self, pg: Any, reader: Connection, log: ChangeLog, rows: int
    ) -> None:
        await pg.execute(
            "INSERT INTO gateway.change_log (source, op) SELECT 'none', 'U' FROM generate_series(1, $1)", rows
        )
        since = await snapshot_of(pg)
        await log.read(reader, since)
        await reader.execute(f"PREPARE poll (text, bigint) AS {log.sql.read}")
        records = await reader.fetch(f"EXPLAIN (ANALYZE, COSTS off, TIMING off) EXECUTE poll('{since}', 10)")
        plan = "\n".join(record[0] for record in records)
        assert "Seq Scan on change_log" not in plan
        assert "Gather" not in plan
        assert plan.count("Bitmap Heap Scan on change_log_") == 8


class TestPosition:
    async def test_is_kept_with_a_counter_that_moves_with_it(self, pg: Any) -> None:
        assert (await load_position(pg)).snapshot is None
        first = await save_position(pg, "10:20:15")
        second = await save_position(pg, "11:20:15")
        assert second == first + 1
        assert await load_position(pg) == ("11:20:15", second, 0)

    async def test_can_not_be_moved_by_a_relay_whose_term_is_over(self, pg: Any) -> None:
        mine = await next_term(pg)
        await save_position(pg, "10:20:", term=mine.term)
        theirs = await next_term(pg)
        assert theirs.term == mine.term + 1
        with pytest.raises(StaleTerm):
            await save_position(pg, "9:9:", term=mine.term)
        assert (await load_position(pg)).snapshot == "10:20:"

    async def test_reading_on_from_it_gives_again_what_was_not_acknowledged(
        self, pg: Any, reader: Connection, log: ChangeLog
    ) -> None:
        await save_position(pg, await snapshot_of(pg))
        await pg.execute(statement("insert", "A", 1))
        since = (await load_position(pg)).snapshot
        assert since is not None
        first = await log.read(reader, since)
        again = await log.read(reader, since)
        assert first.rows == again.rows
        assert len(first.rows) == 1
