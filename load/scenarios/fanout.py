"""One topic with many clients: what a delivered frame and an idle connection cost the server."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Final

import asyncpg

from load.pacing import arrivals, paced
from load.processes import resident_bytes
from load.scenario import Bench, Report, Scenario, Table
from load.sink import Counts, Sinks, Visit, open_sinks
from load.stack import Gateway, Servers, relay_process, serve_process
from load.usage import Usage

__all__ = ["FANOUT", "FanoutReport", "FanoutResult", "measure_fanout"]

# These come first, so that what the server loads once is not counted for the others.
WARM_UP_CLIENTS: Final = 50
SETTLE_S: Final = 1.0
SNAPSHOTS_S: Final = 60.0


@dataclass(frozen=True)
class FanoutResult:
    """At one rate of changes. `cpu_us_per_frame`: all CPU time of the serving process by frames received."""

    changes_per_s: float
    frames: int
    frames_per_s: float
    megabytes_per_s: float
    cpu_us_per_frame: float
    cores: float
    sink_us_per_frame: float


@dataclass(frozen=True)
class FanoutReport:
    """`connect_us`: the server's CPU time for a handshake, a subscription and its snapshot."""

    clients: int
    bytes_per_connection: float
    connect_us: float
    results: tuple[FanoutResult, ...]


async def measure_fanout(
    servers: Servers, gateway: Gateway, *, clients: int, rates_per_s: tuple[float, ...], seconds: float
) -> FanoutReport:
    """`clients` subscribers of one product, whose row changes at each of the rates for `seconds`.

    Raises SinkFailed if one of them is refused or lost.
    """
    async with _product(servers) as (connection, product, location), open_sinks() as sinks:
        visit = Visit(f"/realtime?topics=product:{product}")
        await _gather(sinks, gateway, visit, WARM_UP_CLIENTS)
        before, usage = resident_bytes(gateway.pid), Usage(gateway.pid)
        added = clients - WARM_UP_CLIENTS
        await _gather(sinks, gateway, visit, added)
        connect_us = usage.so_far().cpu_s / added * 1e6
        bytes_per_connection = (resident_bytes(gateway.pid) - before) / added
        results = [
            await _measure_rate(connection, product, location, sinks, gateway, rate, seconds)
            for rate in rates_per_s
        ]
    return FanoutReport(clients, bytes_per_connection, connect_us, tuple(results))


@asynccontextmanager
async def _product(servers: Servers) -> AsyncIterator[tuple[asyncpg.Connection, str, str]]:
    connection = await asyncpg.connect(servers.database_url)
    try:
        query = "SELECT product_id, location_id FROM inventory ORDER BY product_id DESC, location_id LIMIT 1"
        product, location = await connection.fetchrow(query)
        yield connection, product, location
    finally:
        await connection.close()


async def _gather(sinks: Sinks, gateway: Gateway, visit: Visit, count: int) -> None:
    """Each gets a welcome and a snapshot; then the server is left to settle."""
    before = (await sinks.counts()).kinds.get("s", 0)
    await sinks.connect(gateway.port, visit, count)
    await sinks.wait_frames(before + count, kind="s", timeout_s=SNAPSHOTS_S)
    await asyncio.sleep(SETTLE_S)


async def _measure_rate(
    connection: asyncpg.Connection,
    product: str,
    location: str,
    sinks: Sinks,
    gateway: Gateway,
    rate_per_s: float,
    seconds: float,
) -> FanoutResult:
    before, usage = await sinks.counts(), Usage(gateway.pid)
    update = "UPDATE inventory SET on_hand = on_hand + 1 WHERE product_id = $1 AND location_id = $2"
    async for _ in paced(arrivals(rate_per_s, seconds, rng=random.Random(1))):
        await connection.execute(update, product, location)
    after = await _settled(sinks)
    use = usage.so_far()
    frames, size = after.frames - before.frames, after.bytes - before.bytes
    if not frames:
        raise RuntimeError("no frame was delivered")
    return FanoutResult(
        rate_per_s,
        frames,
        frames / use.seconds,
        size / use.seconds / 1e6,
        use.cpu_s / frames * 1e6,
        use.cores,
        (after.cpu_s - before.cpu_s) / frames * 1e6,
    )


async def _settled(sinks: Sinks) -> Counts:
    """When nothing has come for a while: what is under way is counted where it was caused."""
    counts = await sinks.counts()
    while True:
        await asyncio.sleep(SETTLE_S / 4)
        before, counts = counts, await sinks.counts()
        if counts.frames == before.frames:
            return counts


async def _run(bench: Bench) -> Report:
    """The relay has a process of its own, so that what is measured is delivery; nothing is coalesced."""
    clients, rates, seconds = (300, (20.0,), 2.0) if bench.quick else (1000, (10.0, 40.0, 100.0), 5.0)
    async with (
        relay_process(bench.servers, "relay"),
        serve_process(bench.servers, "replica", relay="off", flush_ms=0) as gateway,
    ):
        report = await measure_fanout(
            bench.servers, gateway, clients=clients, rates_per_s=rates, seconds=seconds
        )
    return Report(tables=[_table(report)], figures=asdict(report))


def _table(report: FanoutReport) -> Table:
    rows = [
        (
            f"{result.changes_per_s:g}",
            f"{result.frames:,}",
            f"{result.frames_per_s:,.0f}",
            f"{result.megabytes_per_s:.1f}",
            f"{result.cpu_us_per_frame:.2f}",
            f"{result.cores:.2f}",
            f"{result.sink_us_per_frame:.2f}",
        )
        for result in report.results
    ]
    head = ("changes/s", "frames", "frames/s", "MB/s", "server us/frame", "cores", "sink us/frame")
    note = (
        f"Resident memory per idle connection with one topic: {report.bytes_per_connection / 1024:.1f} KiB. "
        f"Handshake, subscription and snapshot: {report.connect_us:.0f} us of CPU time."
    )
    return Table(f"Fan-out: {report.clients:,} clients on one topic", head, rows, note)


FANOUT: Final = Scenario("fanout", "one topic, 1,000 clients: CPU time per frame", _run, in_quick=True)
