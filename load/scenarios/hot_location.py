"""Every terminal of one busy location: coalescing bounds the frames of each, and the gateway's CPU time."""

import asyncio
import random
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final

import asyncpg

from load.pacing import arrivals, paced
from load.percentiles import Summary, summarize, times_ms
from load.scenario import Bench, Report, Scenario, Table, Verdict
from load.scenarios.copies import differences, subscribers, table_copy
from load.sink import Sinks, Visit, open_sinks
from load.stack import Gateway, Servers, serve_process
from load.usage import Usage
from load.waiting import until

__all__ = ["HOT_LOCATION", "HotLocationReport", "measure_hot_location"]

RATE_PER_S: Final = 1000.0
TARGET_FRAMES_PER_S: Final = 25.0
WRITERS: Final = 4
WARM_UP_S: Final = 2.0
PATIENCE_S: Final = 10.0
SNAPSHOTS_S: Final = 60.0
SETTLE_S: Final = 1.0
_MS: Final = 1000.0


@dataclass(frozen=True)
class HotLocationReport:
    """`frames_per_s` is a client's; the CPU is the gateway's process alone, in percent of a core.

    One witness among the clients keeps a copy, which is compared with the table at the end (`wrong_rows`).
    `lag_ms`: from when the oldest row of a delta was written to its arrival at the witness.
    """

    clients: int
    rate_per_s: float
    changes_per_s: float
    frames_per_s: float
    megabytes_per_s: float
    gateway_cpu_percent: float
    cpu_us_per_frame: float
    lag_ms: Summary
    wrong_rows: int


async def measure_hot_location(
    servers: Servers, gateway: Gateway, *, clients: int, rate_per_s: float, seconds: float
) -> HotLocationReport:
    """Single-row updates of one location at `rate_per_s`, with `clients` subscribers of it."""
    connection: Any = await asyncpg.connect(servers.database_url)
    location = await connection.fetchval("SELECT min(location_id) FROM inventory")
    query = "SELECT product_id FROM inventory WHERE location_id = $1"
    products = [row[0] for row in await connection.fetch(query, location)]
    (witness,) = await subscribers(gateway.realtime_url, [f"location:{location}"], 1)
    try:
        async with open_sinks() as sinks:
            await sinks.connect(gateway.port, Visit(f"/realtime?topics=location:{location}"), clients - 1)
            await _settled(sinks)
            await _write(servers, location, products, rate_per_s, WARM_UP_S)
            witness.lag_s.clear()
            before, deltas, usage = await sinks.counts(), witness.deltas, Usage(gateway.pid)
            changes = await _write(servers, location, products, rate_per_s, seconds)
            use, after = usage.so_far(), await sinks.counts()
            deltas = witness.deltas - deltas
        frames, size = after.frames - before.frames, after.bytes - before.bytes
        truth = await table_copy(connection, location)
        with suppress(TimeoutError):  # the report says what is missing
            await until(lambda: not differences(witness.copy, truth), timeout_s=PATIENCE_S)
    finally:
        if witness.connection is not None:
            witness.connection.abort()
        await connection.close()
    return HotLocationReport(
        clients=clients,
        rate_per_s=rate_per_s,
        changes_per_s=changes / use.seconds,
        frames_per_s=deltas / use.seconds,
        megabytes_per_s=size / use.seconds / 1e6,
        gateway_cpu_percent=use.cores * 100,
        cpu_us_per_frame=use.cpu_s / max(1, frames) * 1e6,
        lag_ms=summarize(lag * _MS for lag in witness.lag_s),
        wrong_rows=differences(witness.copy, truth),
    )


async def _settled(sinks: Sinks) -> None:
    """Every snapshot is there: nothing has come for a while, and nothing changes yet. Raises TimeoutError."""
    async with asyncio.timeout(SNAPSHOTS_S):
        before, frames = -1, 0
        while frames != before:
            await asyncio.sleep(SETTLE_S)
            before, frames = frames, (await sinks.counts()).frames


async def _write(
    servers: Servers, location: str, products: list[str], rate_per_s: float, seconds: float
) -> int:
    async with asyncio.TaskGroup() as tasks:
        writers = [
            tasks.create_task(_writer(servers, location, products[n::WRITERS], rate_per_s / WRITERS, seconds))
            for n in range(WRITERS)
        ]
    return sum(writer.result() for writer in writers)


async def _writer(
    servers: Servers, location: str, products: list[str], rate_per_s: float, seconds: float
) -> int:
    connection: Any = await asyncpg.connect(servers.database_url)
    try:
        update = await connection.prepare(
            "UPDATE inventory SET on_hand = on_hand + 1 WHERE product_id = $1 AND location_id = $2"
        )
        number = 0
        async for _ in paced(arrivals(rate_per_s, seconds)):
            await update.fetch(random.choice(products), location)
            number += 1
    finally:
        await connection.close()
    return number


async def _run(bench: Bench) -> Report:
    """One process with every setting at its default: it has the active relay too."""
    clients, seconds = (200, 3.0) if bench.quick else (1000, 10.0)
    async with serve_process(bench.servers, "gateway") as gateway:
        report = await measure_hot_location(
            bench.servers, gateway, clients=clients, rate_per_s=RATE_PER_S, seconds=seconds
        )
    row = (
        report.clients,
        f"{report.changes_per_s:,.0f}",
        f"{report.frames_per_s:.1f}",
        f"{report.megabytes_per_s:.0f}",
        f"{report.gateway_cpu_percent:.0f}",
        f"{report.cpu_us_per_frame:.1f}",
        *times_ms(report.lag_ms),
        report.wrong_rows,
    )
    head = ("terminals", "changes/s", "frames/s each", "MB/s", "gateway CPU %", "us/frame")
    table = Table("A hot location", (*head, "lag ms p50", "p90", "p99", "p99.9", "max", "wrong rows"), [row])
    return Report(tables=[table], figures=asdict(report), verdicts=[] if bench.quick else [_verdict(report)])


def _verdict(report: HotLocationReport) -> Verdict:
    return Verdict(
        f"hot location, {RATE_PER_S:,.0f} changes/s at {report.clients:,} terminals: at most "
        f"{TARGET_FRAMES_PER_S:g} frames/s each, below one core",
        f"{report.frames_per_s:.1f} frames/s, {report.gateway_cpu_percent:.0f} % of a core",
        report.frames_per_s <= TARGET_FRAMES_PER_S
        and report.gateway_cpu_percent < 100
        and not report.wrong_rows,
    )


HOT_LOCATION: Final = Scenario("hot_location", "every terminal of one busy location", _run)
