import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import asyncpg
import pytest

from gateway.cli import run_command
from gateway.commands.seed import seed_shop
from gateway.commands.simulate import SalesFeed
from gateway.errors import CommandFailed, SettingsError
from gateway.sample import seeding
from gateway.sample.catalogue import Assortment
from gateway.sample.pacing import Pacer
from gateway.sample.page import page_settings
from gateway.sample.planning import Kind, Planner
from gateway.sample.selling import Tally, read_shelves, sell
from listeners.embedded import PostgresServer
from listeners.errors import ListenersError, Refused, Unavailable
from listeners.migrations import migrate
from listeners.postgres import connected
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

SHOP = Assortment(products=300, locations=3)
NOWHERE = "postgresql://nobody@127.0.0.1:1/shop"


async def counts(pg: asyncpg.Connection) -> dict[str, int]:
    tables = ("vendors", "locations", "products", "inventory")
    return {table: await pg.fetchval(f"SELECT count(*) FROM public.{table}") for table in tables}


def environment(**more: str) -> Mapping[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GATEWAY_")}
    return kept | more


class TestSeed:
    async def test_fills_the_shop(self, database_url: str, pg: asyncpg.Connection) -> None:
        added = await seed_shop(database_url, SHOP)
        assert added == (300, 900)
        assert await counts(pg) == {"vendors": 1, "locations": 3, "products": 300, "inventory": 900}

    async def test_every_row_is_stamped_and_logged(self, database_url: str, pg: asyncpg.Connection) -> None:
        await seed_shop(database_url, SHOP)
        assert await pg.fetchval("SELECT min(version) FROM public.inventory") > 0
        logged = await pg.fetch("SELECT source, count(*) FROM gateway.change_log GROUP BY source")
        assert {row["source"]: row["count"] for row in logged} == {
            "locations": 3,
            "products": 300,
            "inventory": 900,
        }

    async def test_deals_products_and_locations_out_to_several_vendors(
        self, database_url: str, pg: asyncpg.Connection
    ) -> None:
        shop = Assortment(products=100, locations=5, vendors=2)
        added = await seed_shop(database_url, shop)
        assert added == (100, 50 * 3 + 50 * 2)
        of = await pg.fetch(
            "SELECT location_id FROM public.inventory WHERE product_id = 'P000002' ORDER BY 1"
        )
        assert [row["location_id"] for row in of] == ["L2", "L4"]

    async def test_tells_its_progress_up_to_the_last_row(self, database_url: str) -> None:
        told: list[int] = []
        await seed_shop(database_url, SHOP, advance=told.append)
        assert sum(told) == SHOP.rows
        await seed_shop(database_url, SHOP, advance=told.append)
        assert sum(told) == 2 * SHOP.rows, "what is there already is settled, too"

    async def test_comes_in_several_transactions_with_products_and_stock_together(
        self, database_url: str, pg: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(seeding, "CHUNK_ROWS", 400)
        await seed_shop(database_url, SHOP)
        mixed = (
            "SELECT count(DISTINCT source) FROM gateway.change_log WHERE source <> 'locations' GROUP BY xid"
        )
        assert [row[0] for row in await pg.fetch(mixed)] == [2, 2, 2, 2]

    async def test_leaves_statistics_for_the_planner(self, database_url: str, pg: asyncpg.Connection) -> None:
        await seed_shop(database_url, SHOP)
        known = "SELECT reltuples::int FROM pg_class WHERE oid = 'public.inventory'::regclass"
        assert await pg.fetchval(known) == 900

    async def test_without_a_server_says_so(self) -> None:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
            await seed_shop(NOWHERE, SHOP)

    async def test_without_the_schema_says_what_to_run(self, empty_database_url: str) -> None:
        with pytest.raises(Refused, match="run `migrate`"):
            await seed_shop(empty_database_url, SHOP)


class TestSeedAgain:
    async def test_adds_nothing_and_leaves_what_was_sold(
        self, database_url: str, pg: asyncpg.Connection
    ) -> None:
        await seed_shop(database_url, SHOP)
        await pg.execute("UPDATE public.inventory SET on_hand = 777 WHERE product_id = 'P000001'")
        before = await pg.fetch("SELECT * FROM public.inventory ORDER BY 1, 2")
        assert await seed_shop(database_url, SHOP) == (0, 0)
        assert await pg.fetch("SELECT * FROM public.inventory ORDER BY 1, 2") == before

    async def test_a_larger_shop_gets_what_it_lacks(self, database_url: str, pg: asyncpg.Connection) -> None:
        await seed_shop(database_url, SHOP)
        await pg.execute("DELETE FROM public.products WHERE product_id = 'P000007'")
        added = await seed_shop(database_url, Assortment(products=310, locations=4))
        assert added == (11, 300 + 10 * 4 + 3)
        assert await counts(pg) == {"vendors": 1, "locations": 4, "products": 310, "inventory": 1240}

    async def test_a_tiny_shop_grows_without_reading_all_of_it_for_every_row(
        self, database_url: str, pg: asyncpg.Connection
    ) -> None:
        # Planned for a shop of one product, the checks of the foreign keys did: 15 million rows for this one.
        await seed_shop(database_url, Assortment(products=1, locations=1))
        await seed_shop(database_url, Assortment(products=6000, locations=1))

        async def statistics() -> asyncpg.Record:
            row = await pg.fetchrow(
                "SELECT t.n_tup_ins AS added, t.seq_tup_read + (SELECT sum(i.idx_tup_read) "
                "FROM pg_stat_user_indexes i WHERE i.relid = t.relid) AS read "
                "FROM pg_stat_user_tables t WHERE t.relid = 'public.products'::regclass"
            )
            assert row["added"] >= 6000, "backends tell when they end"
            return row

        assert (await eventually(statistics))["read"] < 20 * 6000

    async def test_a_smaller_one_takes_nothing_away(self, database_url: str, pg: asyncpg.Connection) -> None:
        await seed_shop(database_url, SHOP)
        assert await seed_shop(database_url, Assortment(products=10, locations=1)) == (0, 0)
        assert (await counts(pg))["inventory"] == 900

    async def test_two_at_the_same_time_make_one_shop(
        self, database_url: str, pg: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(seeding, "CHUNK_ROWS", 80)
        async with asyncio.TaskGroup() as tasks:
            seeding_twice = [tasks.create_task(seed_shop(database_url, SHOP)) for _ in range(2)]
        assert sum(task.result().stock for task in seeding_twice) == 900
        assert (await counts(pg))["inventory"] == 900

    async def test_one_that_was_overtaken_adds_the_rest(
        self, database_url: str, pg: asyncpg.Connection
    ) -> None:
        await seed_shop(database_url, Assortment(products=100, locations=3))
        overtaken = seeding._Seeder(SHOP, lambda rows: None, empty=True)
        await overtaken.write(lambda: connect(database_url))
        assert (overtaken.products, overtaken.stock) == (200, 600)
        assert (await counts(pg))["inventory"] == 900

    async def test_what_is_unique_beyond_its_key_is_not_tried_for_ever(
        self, database_url: str, pg: asyncpg.Connection
    ) -> None:
        await pg.execute("CREATE UNIQUE INDEX ON public.products (category)")
        with pytest.raises(ListenersError, match="products_category_idx"):
            await seed_shop(database_url, SHOP)

    async def test_beside_another_shop_is_refused_in_one_line(
        self, database_url: str, pg: asyncpg.Connection
    ) -> None:
        await pg.execute("INSERT INTO public.vendors (vendor_id, name) VALUES ('Z', 'Z')")
        await pg.execute(
            "INSERT INTO public.locations (location_id, vendor_id, name) VALUES ('L1', 'Z', 'Z')"
        )
        with pytest.raises(CommandFailed, match="L1 is there and belongs to vendor Z, not V1"):
            await seed_shop(database_url, SHOP)
        await pg.execute("UPDATE public.locations SET location_id = 'Z1'")
        await pg.execute(
            "INSERT INTO public.products (product_id, vendor_id, name) VALUES ('P000300', 'Z', 'Z')"
        )
        with pytest.raises(CommandFailed, match="P000300 is there and belongs to vendor Z"):
            await seed_shop(database_url, SHOP)


@pytest.fixture
async def shop_url(database_url: str) -> str:
    await seed_shop(database_url, SHOP)
    return database_url


def connect(url: str) -> AbstractAsyncContextManager[Any]:
    return connected(url, purpose="test")


async def sell_for(url: str, rate: float, seconds: float, *, writers: int = 4) -> SalesFeed:
    feed = await SalesFeed.prepare(url, rate, writers=writers, random=random.Random(5))
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, stop.set)
    await feed.run(stop)
    return feed


class TestSimulate:
    async def test_holds_the_rate(self, shop_url: str) -> None:
        feed = await sell_for(shop_url, 60, 3.0)
        assert feed.tally.changes == pytest.approx(180, rel=0.2)

    async def test_counts_the_rows_that_the_log_has(self, shop_url: str, pg: asyncpg.Connection) -> None:
        feed = await sell_for(shop_url, 400, 1.5)
        logged = await pg.fetchval("SELECT count(*) FROM gateway.change_log WHERE op = 'U'")
        assert feed.tally.changes == logged > 100
        assert f"{logged:,} changes" in feed.tally.summary()

    async def test_does_all_that_a_shop_does_without_an_error(
        self, shop_url: str, pg: asyncpg.Connection
    ) -> None:
        feed = await sell_for(shop_url, 1000, 3.0)
        assert {Kind.SALE, Kind.RESERVE, Kind.RESTOCK, Kind.TRANSFER, Kind.PRICE, Kind.ABANDON} <= set(
            feed.tally.rows
        )
        assert feed.tally.rows[Kind.SALE] > 0.5 * feed.tally.changes
        assert feed.tally.conflicts == feed.tally.reconnects == 0
        broken = "SELECT count(*) FROM public.inventory WHERE reserved + damaged > on_hand OR on_hand < 0"
        assert await pg.fetchval(broken) == 0
        assert (await counts(pg))["inventory"] == 900

    async def test_popular_products_sell_most(self, shop_url: str, pg: asyncpg.Connection) -> None:
        await sell_for(shop_url, 600, 2.0)
        by_product = await pg.fetch(
            "SELECT item ->> 'product_id' FROM gateway.change_log WHERE op = 'U' AND source = 'inventory' "
            "GROUP BY 1 ORDER BY count(*) DESC LIMIT 2"
        )
        assert {row[0] for row in by_product} <= {"P000001", "P000002", "P000003"}

    async def test_needs_something_to_sell(self, database_url: str) -> None:
        with pytest.raises(CommandFailed, match="run `inventory-gateway seed`"):
            await SalesFeed.prepare(database_url, 5)

    async def test_without_a_server_says_so(self) -> None:
        with pytest.raises(Unavailable):
            await SalesFeed.prepare(NOWHERE, 5)

    async def test_needs_the_schema(self, empty_database_url: str) -> None:
        with pytest.raises(Refused, match="run `migrate`"):
            await SalesFeed.prepare(empty_database_url, 5)

    async def test_stops_soon_although_the_next_change_is_far_away(self, shop_url: str) -> None:
        feed = await SalesFeed.prepare(shop_url, 0.05)
        stop = asyncio.Event()
        async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
            tasks.create_task(feed.run(stop))
            await asyncio.sleep(0)
            stop.set()


class TestTroubleInTheShop:
    async def test_a_shop_that_refuses_everything_is_not_asked_in_a_storm(
        self, shop_url: str, pg: asyncpg.Connection
    ) -> None:
        await pg.execute("ALTER TABLE public.inventory ADD CHECK (on_hand < 0) NOT VALID")
        await pg.execute("ALTER TABLE public.products ADD CHECK (price_minor < 0) NOT VALID")
        feed = await sell_for(shop_url, 100, 1.0)
        assert feed.tally.changes == 0
        assert 20 < feed.tally.conflicts < 200

    async def test_nor_is_one_whose_rows_are_gone(self, shop_url: str, pg: asyncpg.Connection) -> None:
        feed = await SalesFeed.prepare(shop_url, 100)
        await pg.execute("DELETE FROM public.products")
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(1.0, stop.set)
        await feed.run(stop)
        assert feed.tally.changes == 0
        assert feed.tally.transactions < 600

    async def test_one_that_takes_its_rights_away_ends_it(
        self, shop_url: str, pg: asyncpg.Connection
    ) -> None:
        feed = await SalesFeed.prepare(shop_url, 100)
        await pg.execute("ALTER TABLE public.inventory RENAME TO stock_rooms")
        async with asyncio.timeout(10):
            with pytest.raises(Refused):
                await feed.run(asyncio.Event())

    async def test_a_transfer_from_an_empty_place_happens_not_even_in_part(
        self, shop_url: str, pg: asyncpg.Connection
    ) -> None:
        await pg.execute("UPDATE public.inventory SET on_hand = 0, reserved = 0, damaged = 0")
        async with connect(shop_url) as connection:
            shelves = await read_shelves(connection)
            planner = Planner(shelves, usual={Kind.TRANSFER: 1}, random=random.Random(1))
            stop = asyncio.Event()
            asyncio.get_running_loop().call_later(0.5, stop.set)
            tally = Tally()
            await sell(connection, planner, Pacer(200), tally, stop)
        assert tally.transactions > 10
        assert tally.changes == 0
        assert await pg.fetchval("SELECT sum(on_hand) FROM public.inventory") == 0


class TestWhenPostgresGoesAway:
    @pytest.fixture
    async def private_url(self, private_postgres: PostgresServer) -> str:
        await migrate(private_postgres.url)
        await seed_shop(private_postgres.url, Assortment(products=20, locations=2))
        return private_postgres.url

    async def test_the_sales_go_on_after_a_restart(
        self, private_postgres: PostgresServer, private_url: str
    ) -> None:
        feed = await SalesFeed.prepare(private_url, 200)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(feed.run(stop))
            await eventually(lambda: feed.tally.changes > 10)
            await private_postgres.kill()
            await eventually(lambda: feed.tally.reconnects > 2)
            sold = feed.tally.changes
            await private_postgres.restart()
            await eventually(lambda: feed.tally.changes > sold + 10, timeout_s=15)
            stop.set()
        assert "reconnects" in feed.tally.summary()

    async def test_it_can_be_stopped_meanwhile(
        self, private_postgres: PostgresServer, private_url: str
    ) -> None:
        feed = await SalesFeed.prepare(private_url, 200)
        await private_postgres.kill()
        stop = asyncio.Event()
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            tasks.create_task(feed.run(stop))
            await eventually(lambda: feed.tally.reconnects > 2)
            stop.set()


class TestThePage:
    async def test_is_told_the_first_products_on_sale_and_the_open_places(
        self, shop_url: str, pg: asyncpg.Connection
    ) -> None:
        await pg.execute("UPDATE public.products SET status = 'draft' WHERE product_id = 'P000002'")
        await pg.execute("UPDATE public.locations SET active = false WHERE location_id = 'L3'")
        settings = await page_settings(pg)
        assert settings["featured"][:3] == ["P000001", "P000003", "P000004"]
        assert len(settings["featured"]) == 12
        assert settings["locations"] == [
            {"id": "L1", "name": "Market Street"},
            {"id": "L2", "name": "Harbour"},
        ]


class TestCommands:
    def test_seed_and_simulate_say_what_they_did(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("GATEWAY_DATABASE_URL", database_url)
        assert run_command(["seed", "--products", "50", "--locations", "2"]) == 0
        out, err = capfd.readouterr()
        assert out.startswith("added 50 products and 100 stock rows; ")
        assert err.splitlines()[-1].startswith("seeding: 100 %  150 of 150 rows")
        assert run_command(["simulate", "--rate", "50", "--seconds", "0.5"]) == 0
        out, err = capfd.readouterr()
        assert out.startswith("selling from 50 products at 50 changes/s for 0.5 s\n")
        assert "sales" in out
        assert err == ""

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["seed", "--products", "0"], "argument --products: '0' is no whole number above 0"),
            (["seed", "--locations", "x"], "argument --locations: 'x' is no whole number above 0"),
            (["simulate", "--rate", "nan"], "argument --rate: 'nan' is no number above 0"),
            (["simulate", "--seconds", "-1"], "argument --seconds: '-1' is no number above 0"),
            (["seed", "--locations", "2", "--vendors", "3"], "--vendors=3: every vendor needs a location"),
        ],
    )
    def test_wrong_usage_is_told_in_one_line(
        self, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        try:
            code: object = run_command(arguments)
        except SystemExit as end:
            code = end.code
        assert code == SettingsError.exit_code
        err = capsys.readouterr().err
        assert reason in err
        assert err.count("\n") == 1

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    async def test_simulate_ends_with_its_summary_when_it_is_told_to(
        self, shop_url: str, number: signal.Signals
    ) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "simulate", "--rate", "50"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(GATEWAY_DATABASE_URL=shop_url),
        )
        try:
            async with asyncio.timeout(30):
                assert process.stdout is not None
                assert (await process.stdout.readline()).startswith(b"selling from 300 products")
                told = time.monotonic()
                process.send_signal(number)
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0
        assert b" changes in " in out
        assert err == b""
        assert time.monotonic() - told < 5
