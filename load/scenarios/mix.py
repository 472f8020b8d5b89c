"""Everything at once: browsers, terminals, clients that come and go, some that do not read, sales and a bulk
change; and whether those who behave notice."""

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from typing import Any, Final
from urllib.parse import quote

import asyncpg

from load.client import connect
from load.copies import differing_copies, open_copies, product_topics
from load.pacing import arrivals as moments_of
from load.pacing import paced
from load.percentiles import Summary, times_ms
from load.sales import Arrivals, Sales, sell
from load.scenario import Bench, Report, Scenario, Table
from load.sink import Visit, open_sinks
from load.stack import Gateway, Servers, serve_process
from load.usage import Usage, proportional_bytes
from load.waiting import until_answered
from load.zipf import Zipf

__all__ = ["MIX", "MixReport", "measure_mix"]

TOPICS_EACH: Final = 10
PRODUCTS: Final = 2000
CHURN_PER_S: Final = 20.0
STAY_S: Final = 2.0
BULK_EVERY_S: Final = 2.0
BULK_ROWS: Final = 500
SNAPSHOTS_S: Final = 60.0
QUIET_S: Final = 1.0
_BULK: Final = (
    "UPDATE inventory SET incoming = incoming + 1 WHERE (product_id, location_id) IN"
    " (SELECT product_id, location_id FROM inventory WHERE location_id = $1 ORDER BY random() LIMIT $2)"
)


@dataclass(frozen=True)
class MixResult:
    """With so many terminals that never read. `latency` in ms from when a sale was due to its arrival at a
    browser; `differing`: copies of witnesses that are not what the database says at the end."""

    deaf: int
    changes_per_s: float
    frames_per_s: float
    cores: float
    gateway_bytes: int
    latency: Summary
    visits: int
    postponed: int
    lost: int
    differing: int


@dataclass(frozen=True)
class MixReport:
    browsers: int
    terminals: int
    results: tuple[MixResult, ...]


async def measure_mix(
    servers: Servers,
    gateway: Gateway,
    *,
    browsers: int,
    terminals: int,
    deaf: int,
    rate_per_s: float,
    seconds: float,
) -> MixResult:
    """Raises SinkFailed, RuntimeError or TimeoutError if somebody is not served."""
    topics = await product_topics(servers, PRODUCTS)
    zipf = Zipf(topics, random.Random(1))
    connection: Any = await asyncpg.connect(servers.database_url)
    location: str = await connection.fetchval("SELECT min(location_id) FROM inventory")
    terminal = Visit(f"/realtime?topics=location:{location}")
    pages = [
        Visit(f"/realtime?topics={quote(','.join(zipf.several(TOPICS_EACH)), safe=',:')}")
        for _ in range(browsers)
    ]
    sales, arrivals = Sales(), Arrivals()
    try:
        async with open_sinks() as sinks, open_sinks() as silent, AsyncExitStack() as stack:
            witness_topics = (zipf.several(TOPICS_EACH), [f"location:{location}"])
            witnesses = [
                await stack.enter_async_context(open_copies(gateway.realtime_url, names))
                for names in witness_topics
            ]
            watcher = await connect(gateway.realtime_url, arrivals.on_text)
            stack.callback(watcher.abort)
            watcher.subscribe(topics[:100])
            await sinks.connect(gateway.port, pages, browsers)
            await sinks.connect(gateway.port, terminal, terminals)
            await silent.connect(gateway.port, terminal, deaf, deaf=True)
            await asyncio.sleep(QUIET_S)
            before, usage = await sinks.counts(), Usage(gateway.pid)
            async with asyncio.TaskGroup() as tasks:
                visits = tasks.create_task(_churn(gateway, zipf, seconds))
                tasks.create_task(_bulk(connection, location, seconds))
                selling = tasks.create_task(
                    sell(
                        servers.database_url,
                        lambda: zipf.one().removeprefix("product:"),
                        sales,
                        rate_per_s=rate_per_s,
                        seconds=seconds,
                    )
                )
            use, after = usage.so_far(), await sinks.counts()
            size = proportional_bytes(gateway.pid)

            async def equal() -> bool:
                return not await differing_copies(servers.database_url, witnesses)

            try:
                await until_answered(equal, timeout_s=10.0, interval_s=QUIET_S)
                differing = 0
            except TimeoutError:
                differing = await differing_copies(servers.database_url, witnesses)
    finally:
        await connection.close()
    return MixResult(
        deaf,
        selling.result(),
        (after.kinds.get("d", 0) - before.kinds.get("d", 0)) / use.seconds,
        use.cores,
        size,
        arrivals.summary(sales),
        *visits.result(),
        after.lost,
        differing,
    )


async def _churn(gateway: Gateway, zipf: Zipf[str], seconds: float) -> tuple[int, int]:
    """Clients that come, take some snapshots and leave: how many there were, and how many topics of theirs
    they had to ask for again later."""
    postponed = 0

    async def visit(topics: list[str]) -> None:
        nonlocal postponed
        async with open_copies(gateway.realtime_url, topics, timeout_s=SNAPSHOTS_S) as copies:
            await asyncio.sleep(STAY_S)
            postponed += copies.postponed

    count = 0
    async with asyncio.TaskGroup() as tasks:
        async for _ in paced(moments_of(CHURN_PER_S, seconds)):
            tasks.create_task(visit(zipf.several(TOPICS_EACH)))
            count += 1
    return count, postponed


async def _bulk(connection: Any, location: str, seconds: float) -> None:
    async for _ in paced(BULK_EVERY_S * number for number in range(int(seconds / BULK_EVERY_S))):
        await connection.execute(_BULK, location, BULK_ROWS)


async def _run(bench: Bench) -> Report:
    browsers, terminals, rate, seconds = (200, 10, 50.0, 4.0) if bench.quick else (2_000, 50, 200.0, 15.0)
    results = []
    for deaf in (0, 20):
        async with serve_process(bench.servers, f"gateway-{deaf}") as gateway:
            results.append(
                await measure_mix(
                    bench.servers,
                    gateway,
                    browsers=browsers,
                    terminals=terminals,
                    deaf=deaf,
                    rate_per_s=rate,
                    seconds=seconds,
                )
            )
    report = MixReport(browsers, terminals, tuple(results))
    return Report(tables=[_table(report)], figures=asdict(report))


def _table(report: MixReport) -> Table:
    rows = [
        (
            result.deaf,
            f"{result.changes_per_s:,.0f}",
            f"{result.frames_per_s:,.0f}",
            f"{result.cores:.2f}",
            f"{result.gateway_bytes / 2**20:.0f}",
            *times_ms(result.latency),
            result.visits,
            result.postponed,
            result.lost,
            result.differing,
        )
        for result in report.results
    ]
    head = (
        *("terminals that never read", "sales/s", "frames/s", "cores", "MiB"),
        *("p50 ms", "p90", "p99", "p99.9", "max", "visits", "asked again", "lost", "copies that differ"),
    )
    title = (
        f"All at once: {report.browsers:,} browsers with {TOPICS_EACH} products, "
        f"{report.terminals} terminals, {CHURN_PER_S:g} visits/s, "
        f"{BULK_ROWS} rows changed at once every {BULK_EVERY_S:g} s; "
        "the relay in the same process"
    )
    return Table(title, head, rows)


MIX: Final = Scenario("mix", "all at once, with slow clients among them", _run)
