"""The scenarios of the read side, a little of each: that they measure, count, and notice what is missing."""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from load.copies import differing_copies, open_copies
from load.scenarios.churn import churn_table, churn_verdict, measure_churn
from load.scenarios.reconnect_storm import measure_reconnect_storm, storm_table, storm_verdict
from load.scenarios.snapshots import (
    large_table,
    large_verdicts,
    measure_large_snapshot,
    measure_subscribes,
    subscribes_table,
    warm_verdict,
)
from load.stack import Gateway, Servers, serve_process

PRODUCTS = 20
ROWS = """
    INSERT INTO vendors (vendor_id, name) VALUES ('V', 'Vendor');
    INSERT INTO locations (location_id, vendor_id, name) VALUES ('L', 'V', 'One');
    INSERT INTO products (product_id, vendor_id, name)
        SELECT 'P' || n, 'V', 'Product' FROM generate_series(1, 20) AS n;
    INSERT INTO inventory (product_id, location_id, vendor_id, on_hand)
        SELECT 'P' || n, 'L', 'V', 7 FROM generate_series(1, 20) AS n;
"""


@pytest.fixture
async def servers(pg: asyncpg.Connection, database_url: str, redis_url: str, tmp_path: Path) -> Servers:
    await pg.execute(ROWS)
    return Servers(database_url, redis_url, tmp_path)


@pytest.fixture
async def gateway(servers: Servers, redis_prefix: str) -> AsyncIterator[Gateway]:
    async with serve_process(servers, "gateway", redis_prefix=redis_prefix) as gateway:
        yield gateway


async def test_subscribes(servers: Servers, gateway: Gateway) -> None:
    cold = await measure_subscribes(servers, gateway, rate_per_s=50, seconds=1, topics=PRODUCTS, warm=False)
    warm = await measure_subscribes(servers, gateway, rate_per_s=200, seconds=1, topics=PRODUCTS, warm=True)
    assert 0 < cold.subscribes <= PRODUCTS
    assert cold.costs.loads == cold.subscribes
    assert warm.subscribes > PRODUCTS
    assert warm.missing == cold.missing == warm.differing == 0
    assert len(subscribes_table([cold, warm]).rows) == 2
    assert "p99" in warm_verdict(warm).measured


async def test_a_large_location(servers: Servers, gateway: Gateway) -> None:
    report = await measure_large_snapshot(servers, gateway, items=6000)
    assert [each.what for each in report.transfers] == ["cold", "warm", "warm", "public, cold", "public"]
    assert all(0 < each.first_part <= each.last_part for each in report.transfers)
    assert all(each.parts > 1 and each.pongs.samples for each in report.transfers)
    assert report.differing == 0
    assert len(large_table(report).rows) == 1 + len(report.transfers)
    assert len(large_verdicts(report)) == 2


@pytest.mark.parametrize("resume", [False, True])
async def test_a_reconnect_storm(servers: Servers, gateway: Gateway, redis_prefix: str, resume: bool) -> None:
    async with serve_process(servers, "replica", redis_prefix=redis_prefix, relay="off") as replica:
        report = await measure_reconnect_storm(
            servers, gateway, replica, clients=60, topics=PRODUCTS, resume=resume, processes=1
        )
    assert report.handshakes.samples == 60
    assert 0 < report.live_s < 60
    assert report.costs.loads == report.differing == 0
    assert report.costs.redis_scripts > 0
    assert storm_verdict(report).met == (report.live_s <= 8)
    assert len(storm_table([report]).rows) == 1


async def test_a_storm_over_topics_that_nobody_has_loaded(servers: Servers, gateway: Gateway) -> None:
    report = await measure_reconnect_storm(servers, None, gateway, clients=60, topics=PRODUCTS, processes=1)
    assert report.costs.loads == PRODUCTS


async def test_churn(servers: Servers, gateway: Gateway) -> None:
    report = await measure_churn(servers, gateway, rate_per_s=60, seconds=1, stay_s=0.2, topics=10)
    assert report.clients > 10
    assert report.costs.loads == 10
    assert report.missing == report.left == report.differing == 0
    assert churn_verdict(report).met
    assert len(churn_table(report).rows) == 1


async def test_a_copy_that_is_not_as_the_database_is_counted(
    servers: Servers, gateway: Gateway, pg: asyncpg.Connection
) -> None:
    async with open_copies(gateway.realtime_url, ["product:P1", "location:L"]) as copies:
        assert await differing_copies(servers.database_url, [copies]) == 0
        # What bypasses the triggers is not sent.
        await pg.execute(
            "SET session_replication_role = replica;"
            "UPDATE inventory SET version = version + 1000 WHERE product_id = 'P1'"
        )
        assert await differing_copies(servers.database_url, [copies]) == 2
