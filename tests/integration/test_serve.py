import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import httpx
import orjson
import pytest

from protocol.principal import View
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.messages import next_message
from tests.support.waiting import eventually
from tests.support.watcher import database_copy, watching


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def shop(pg: asyncpg.Connection) -> asyncpg.Connection:
    await pg.execute(
        """
        INSERT INTO vendors (vendor_id, name) VALUES ('V1', 'Vendor');
        INSERT INTO locations (location_id, vendor_id, name) VALUES ('L1', 'V1', 'Main street');
        INSERT INTO products (product_id, vendor_id, sku, name, price_minor, status)
            SELECT 'P' || n, 'V1', 'S' || n, 'Product ' || n, 100 * n, 'published'
            FROM generate_series(1, 3) n;
        INSERT INTO inventory (product_id, location_id, vendor_id, on_hand)
            SELECT 'P' || n, 'L1', 'V1', 10 FROM generate_series(1, 3) n;
        """
    )
    return pg


@pytest.fixture
async def gateway(
    shop: asyncpg.Connection, database_url: str, redis_url: str, redis_prefix: str
) -> AsyncIterator[RunningGateway]:
    async with running_gateway(database_url, redis_url, redis_prefix) as running:
        await eventually(running.is_ready, timeout_s=15)
        yield running


async def test_a_committed_row_reaches_a_client(gateway: RunningGateway, shop: asyncpg.Connection) -> None:
    async with watching(gateway.url, ["product:P1"]) as client:
        await eventually(lambda: client.is_complete("product:P1"))
        assert client.holds("product:P1").keys() == {"product:P1", "stock:P1:L1"}
        await shop.execute("UPDATE inventory SET on_hand = 7 WHERE product_id = 'P1'")
        await eventually(lambda: client.of("delta"))
    (item,) = client.of("delta")[0]["items"]
    assert (item["on_hand"], item["available"]) == (7, 7)


async def test_an_insert_that_overtakes_a_delete_is_not_lost(
    gateway: RunningGateway, shop: asyncpg.Connection, database_url: str
) -> None:
    """The INSERT draws its version while the DELETE it waits for still runs, which draws a higher one."""
    async with watching(gateway.url, ["location:L1"]) as client, connected(database_url) as other:
        await eventually(lambda: client.is_complete("location:L1"))
        deleting = asyncio.create_task(
            other.execute(
                "DELETE FROM inventory WHERE product_id = 'P1'"
                " OR (product_id = 'P2' AND pg_catalog.pg_sleep(1) IS NOT NULL)"
            )
        )
        await eventually(
            lambda: shop.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        )
        await shop.execute(
            "INSERT INTO inventory (product_id, location_id, vendor_id, on_hand) VALUES ('P1', 'L1', 'V1', 3)"
        )
        await deleting
        newest, tombstone = await shop.fetchrow(
            "SELECT max(version) FILTER (WHERE op = 'I'), max(version) FILTER (WHERE op = 'D')"
            " FROM gateway.change_log WHERE item ->> 'product_id' = 'P1' AND item ? 'location_id'"
        )
        assert newest < tombstone
        expected = await database_copy(shop, "location:L1")
        assert "stock:P1:L1" in expected
        await eventually(lambda: client.equals("location:L1", expected), timeout_s=10)


async def test_a_location_that_closes_takes_its_stock_out_of_what_is_available(
    gateway: RunningGateway, shop: asyncpg.Connection
) -> None:
    def status() -> object:
        return client.copies["product:P1"].items["availability:P1"]["status"]

    async with watching(gateway.url, ["product:P1"], View.PUBLIC) as client:
        await eventually(lambda: client.is_complete("product:P1"))
        assert status() == "in_stock"
        await shop.execute("UPDATE locations SET active = false WHERE location_id = 'L1'")
        await eventually(lambda: status() == "out_of_stock", timeout_s=10)


async def test_a_truncated_table_is_an_empty_snapshot_of_a_new_epoch(
    gateway: RunningGateway, shop: asyncpg.Connection
) -> None:
    async with watching(gateway.url, ["location:L1"]) as client:
        await eventually(lambda: client.is_complete("location:L1"))
        epoch = client.position("location:L1").epoch
        await shop.execute("TRUNCATE inventory")
        await eventually(
            lambda: client.position("location:L1").epoch != epoch and client.holds("location:L1") == {},
            timeout_s=10,
        )


async def test_who_comes_back_goes_on_where_it_was(gateway: RunningGateway, shop: asyncpg.Connection) -> None:
    async with watching(gateway.url, ["product:P1"]) as client:
        await eventually(lambda: client.is_complete("product:P1"))
        position = client.position("product:P1")
    await shop.execute("UPDATE inventory SET on_hand = 4 WHERE product_id = 'P1'")
    async with gateway.connect() as again:
        resume = {"product:P1": {"epoch": position.epoch, "seq": position.seq}}
        await again.send(
            orjson.dumps({"type": "subscribe", "topics": ["product:P1"], "resume": resume}).decode()
        )
        resumed = await next_message(again, "resumed")
        assert resumed["seq"] == position.seq
        (item,) = (await next_message(again, "delta"))["items"]
        assert item["on_hand"] == 4


async def test_over_http_it_is_the_same_until_it_changes(
    gateway: RunningGateway, shop: asyncpg.Connection
) -> None:
    async with httpx.AsyncClient(base_url=gateway.http_url, trust_env=False) as http:
        first = await http.get("/v1/products/P1")
        second = await http.get("/v1/products/P1")
        same = await http.get("/v1/products/P1", headers={"If-None-Match": first.headers["ETag"]})
        assert [r.headers["X-Cache"] for r in (first, second)] == ["MISS", "HIT"]
        assert (same.status_code, same.content) == (304, b"")
        await shop.execute("UPDATE inventory SET on_hand = 1 WHERE product_id = 'P1'")

        async def changed() -> bool:
            answer = await http.get("/v1/products/P1", headers={"If-None-Match": first.headers["ETag"]})
            return answer.status_code == 200 and answer.json()["stock"][0]["on_hand"] == 1

        await eventually(changed)
        page = (await http.get("/v1/locations/L1/stock", params={"limit": 2})).json()
        assert [row["product_id"] for row in page["items"]] == ["P1", "P2"]
        assert (await http.get("/v1/products/none")).json()["code"] == "not_found"


async def test_it_counts(gateway: RunningGateway) -> None:
    async with (
        httpx.AsyncClient(base_url=gateway.ops_url, trust_env=False) as http,
        watching(gateway.url, ["product:P1"]) as client,
    ):
        await eventually(lambda: client.is_complete("product:P1"))
        metrics = (await http.get("/metrics")).text
    for line in ("gateway_connections 1.0", "gateway_subscriptions 1.0", "gateway_relay_active 1.0"):
        assert line in metrics.splitlines()
