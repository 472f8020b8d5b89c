"""What `make bench` is made of, in miniature: that it measures something, not what."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from load.comparison import Plan
from load.machine import describe_machine
from load.scenarios.connections import measure_connections
from load.scenarios.delivery import measure_ways
from load.scenarios.fanout import measure_fanout
from load.scenarios.flood import HALF_OPEN, SHAKEN, measure_flood
from load.scenarios.hot_location import measure_hot_location
from load.scenarios.idle_latency import measure_latency
from load.scenarios.ingest import measure_bulk_ingest, measure_single_ingest
from load.scenarios.latency_topics import measure_topics_latency
from load.scenarios.many_topics import measure_many_topics
from load.scenarios.mix import measure_mix
from load.scenarios.shop_side import measure_shop_side
from load.scenarios.views import measure_views, report_of
from load.sink import open_sinks
from load.stack import Gateway, Servers, StackFailed, serve_process
from load.ways import IN_C, WAYS
from tests.support.ports import free_port

ROWS = """
INSERT INTO vendors (vendor_id, name) VALUES ('V', 'Vendor');
INSERT INTO locations (location_id, vendor_id, name) VALUES ('L', 'V', 'Store');
INSERT INTO products (product_id, vendor_id, name) SELECT 'P' || lpad(n::text, 6, '0'), 'V', 'P'
    FROM generate_series(1, 1200) n;
INSERT INTO inventory (product_id, location_id, vendor_id) SELECT product_id, 'L', 'V' FROM products;
"""


@pytest.fixture
async def servers(pg: asyncpg.Connection, database_url: str, redis_url: str, tmp_path: Path) -> Servers:
    await pg.execute(ROWS)
    return Servers(database_url, redis_url, tmp_path)


@pytest.fixture
async def gateway(servers: Servers, redis_prefix: str) -> AsyncIterator[Gateway]:
    async with serve_process(servers, "gateway", redis_prefix=redis_prefix) as gateway:
        yield gateway


async def test_the_machine_is_described(servers: Servers) -> None:
    machine = await describe_machine(servers)
    assert all(machine.values())
    assert "PostgreSQL" in machine["servers"]


async def test_a_latency_is_measured_and_nothing_is_missing(servers: Servers, gateway: Gateway) -> None:
    report = await measure_latency(servers, gateway, rate_per_s=100, seconds=0.5)
    assert report.changes > 10
    for result in report.results:
        assert result.missing == 0
        assert 0 < result.since_commit_sent.p50 < 5000


async def test_the_fanout_is_measured(servers: Servers) -> None:
    result = await measure_fanout(servers, 60, turn_s=0.3, rounds=1)
    assert result.clients == 60
    assert result.cpu_us > 0
    assert result.limit_us > 0


async def test_views_are_measured(servers: Servers) -> None:
    """That everybody is let in, follows a product and hears each change. Its judgement is for other sizes."""
    plan = Plan(clients=20, rates_per_s=(40.0,), turn_s=0.3, rounds=2)
    comparison = await measure_views(servers, plan)
    assert {turn.published for turn in comparison.turns} == {12}
    assert all(turn.frames > turn.expected / 2 for turn in comparison.turns)
    report = report_of(comparison, plan)
    assert len(report.tables[0].rows) == 4
    assert len(report.verdicts) == 4
    assert all(len(each) == 2 for each in report.figures["ratios"].values())


async def test_the_ways_of_a_delivery_are_measured() -> None:
    result = await measure_ways(40, deliveries=200)
    assert set(result) >= set(WAYS) - {IN_C}  # which needs a compiler
    assert all(took_us > 0 for took_us in result.values())


async def test_many_connections_are_measured(servers: Servers, gateway: Gateway) -> None:
    async with open_sinks(2) as sinks:
        report = await measure_connections(servers, gateway, sinks, clients=260, workers=1, idle_s=0.2)
    assert report.connect_us > 0
    assert len(report.arrivals_s) == 3
    assert all(0 < seconds < 60 for seconds in report.arrivals_s)


async def test_many_topics_are_measured_and_the_copies_compared(servers: Servers, gateway: Gateway) -> None:
    report = await measure_many_topics(servers, gateway, clients=120, rate_per_s=200, seconds=1)
    assert report.frames > 0
    assert report.latency.p50 > 0
    assert report.differing == 0


async def test_a_mix_is_measured_and_the_copies_compared(servers: Servers, gateway: Gateway) -> None:
    result = await measure_mix(servers, gateway, browsers=20, terminals=3, deaf=2, rate_per_s=50, seconds=2.5)
    assert result.visits > 0
    assert result.frames_per_s > 0
    assert (result.lost, result.differing) == (0, 0)


async def test_clients_watch_a_running_gateway(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    command = (
        "-m",
        "load.clients",
        gateway.gateway_url,
        "--topic",
        "location:L",
        "--topic",
        "product:P000001",
    )
    options = ("--clients", "20", "--seconds", "0.2")
    process = await asyncio.create_subprocess_exec(sys.executable, *command, *options)
    assert await asyncio.wait_for(process.wait(), 30) == 0
    said = capfd.readouterr().out
    assert "20 clients connected" in said
    assert "0 disconnected" in said


async def test_clients_say_when_there_is_no_gateway(capfd: pytest.CaptureFixture[str]) -> None:
    options = (
        "-m",
        "load.clients",
        f"http://127.0.0.1:{free_port()}",
        "--topic",
        "product:P000001",
        "--clients",
        "2",
    )
    process = await asyncio.create_subprocess_exec(sys.executable, *options)
    assert await asyncio.wait_for(process.wait(), 30) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("clients: ")


async def test_ingest_is_measured_and_nothing_is_lost(servers: Servers, gateway: Gateway) -> None:
    bulk = await measure_bulk_ingest(servers, gateway, rows_per_s=4000, seconds=1)
    single = await measure_single_ingest(servers, gateway, rows_per_s=200, seconds=1)
    for report in (bulk, single):
        assert report.rows > 0
        assert report.wrong_rows == 0
        assert report.deltas >= report.subscribers
        assert min(report.cpu_s.values()) >= 0
        assert report.cpu_s["Postgres: the writers' backends"] > 0
        assert report.cpu_s["the replica"] > 0
        assert sum(report.cpu_s.values()) <= 2 * report.cpu_s["of"]


async def test_a_latency_over_many_topics_is_measured(servers: Servers, gateway: Gateway) -> None:
    report = await measure_topics_latency(servers, [gateway], topics=20, rate_per_s=100, seconds=0.5)
    assert report.changes > 10
    assert (report.missing, report.wrong_rows) == (0, 0)


async def test_a_hot_location_is_measured(servers: Servers, gateway: Gateway) -> None:
    report = await measure_hot_location(servers, gateway, clients=20, rate_per_s=100, seconds=1)
    assert report.wrong_rows == 0
    assert 0 < report.frames_per_s <= 25


@pytest.mark.parametrize("idle", [SHAKEN, HALF_OPEN])
async def test_a_flood_is_measured_and_nobody_is_lost(servers: Servers, idle: str) -> None:
    result = await measure_flood(
        servers, idle=idle, clients=20, strangers=30, handshakes_per_s=300, seconds=1, settle_s=0.5
    )
    assert result.lost == 0
    assert result.held == 30
    assert 0 < result.admitted + result.refused <= result.sent
    assert 0 < result.flooded.latency.p50 < 5000


async def test_the_shops_side_is_measured(servers: Servers) -> None:
    report = await measure_shop_side(servers, synchronous_commit="off", relay_pid=None, turns=1, seconds=0.2)
    assert [result.what for result in report.results] == ["single-row updates", "1000-row updates"]
    assert all(result.ratio > 0 for result in report.results)


async def test_a_gateway_that_does_not_start_is_told_with_its_last_words(servers: Servers) -> None:
    with pytest.raises(StackFailed, match="GATEWAY_POLL_MS"):
        async with serve_process(servers, "broken", poll_ms="often"):
            pass
