"""Many clients with many topics each, some of which are much more popular than others (Zipf)."""

import random
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from typing import Final
from urllib.parse import quote

from load.client import connect
from load.copies import differing_copies, open_copies, product_topics
from load.percentiles import Summary, times_ms
from load.sales import Arrivals, Sales, sell
from load.scenario import Bench, Report, Scenario, Table
from load.sink import Visit, open_sinks
from load.stack import Gateway, Servers, relay_process, serve_process
from load.usage import Usage, proportional_bytes
from load.waiting import until_answered
from load.zipf import Zipf

__all__ = ["MANY_TOPICS", "ManyTopicsReport", "measure_many_topics"]

TOPICS_EACH: Final = 20
PRODUCTS: Final = 2000
FIRST: Final = 100
WITNESSES: Final = 5
SNAPSHOTS_S: Final = 120.0
QUIET_S: Final = 1.0


@dataclass(frozen=True)
class ManyTopicsReport:
    """`latency` in ms from when a change was due to its arrival at a witness that follows all its topics.
    `differing`: copies of the witnesses that are not what the database says at the end."""

    clients: int
    subscriptions: int
    connect_us: float
    bytes_per_connection: float
    changes_per_s: float
    frames: int
    frames_per_s: float
    cpu_us_per_frame: float
    cores: float
    latency: Summary
    differing: int


async def measure_many_topics(
    servers: Servers, gateway: Gateway, *, clients: int, rate_per_s: float, seconds: float
) -> ManyTopicsReport:
    """Raises SinkFailed, RuntimeError or TimeoutError if somebody is not served."""
    topics = await product_topics(servers, PRODUCTS)
    rng = random.Random(1)
    zipf = Zipf(topics, rng)
    visits = [
        Visit(f"/realtime?topics={quote(','.join(zipf.several(TOPICS_EACH)), safe=',:')}")
        for _ in range(clients)
    ]
    sales, arrivals = Sales(), Arrivals()
    async with open_sinks() as sinks, AsyncExitStack() as stack:
        witnesses = [
            await stack.enter_async_context(open_copies(gateway.realtime_url, zipf.several(TOPICS_EACH)))
            for _ in range(WITNESSES)
        ]
        popular = topics[:TOPICS_EACH]
        watcher = await connect(gateway.realtime_url, arrivals.on_text)
        stack.callback(watcher.abort)
        watcher.subscribe(popular)
        await sinks.connect(gateway.port, visits[:FIRST], FIRST)
        await sinks.wait_frames(FIRST * TOPICS_EACH, kind="s", timeout_s=SNAPSHOTS_S)
        before, usage = proportional_bytes(gateway.pid), Usage(gateway.pid)
        await sinks.connect(gateway.port, visits[FIRST:], clients - FIRST)
        await sinks.wait_frames(clients * TOPICS_EACH, kind="s", timeout_s=SNAPSHOTS_S)
        connect_us = usage.so_far().cpu_s / (clients - FIRST) * 1e6
        grown = proportional_bytes(gateway.pid) - before
        counts, usage = await sinks.counts(), Usage(gateway.pid)

        def product() -> str:
            return zipf.one().removeprefix("product:")

        rate = await sell(servers.database_url, product, sales, rate_per_s=rate_per_s, seconds=seconds)
        use, after = usage.so_far(), await sinks.counts()

        async def equal() -> bool:
            return not await differing_copies(servers.database_url, witnesses)

        try:
            await until_answered(equal, timeout_s=10.0, interval_s=QUIET_S)
            differing = 0
        except TimeoutError:
            differing = await differing_copies(servers.database_url, witnesses)
    frames = after.kinds.get("d", 0) - counts.kinds.get("d", 0)
    return ManyTopicsReport(
        clients,
        clients * TOPICS_EACH,
        connect_us,
        grown / (clients - FIRST),
        rate,
        frames,
        frames / use.seconds,
        use.cpu_s / max(1, frames) * 1e6,
        use.cores,
        arrivals.summary(sales),
        differing,
    )


async def _run(bench: Bench) -> Report:
    clients, rate, seconds = (500, 100.0, 3.0) if bench.quick else (10_000, 200.0, 15.0)
    async with (
        relay_process(bench.servers, "relay"),
        serve_process(bench.servers, "replica", relay="off") as gateway,
    ):
        report = await measure_many_topics(
            bench.servers, gateway, clients=clients, rate_per_s=rate, seconds=seconds
        )
    return Report(tables=[_table(report)], figures=asdict(report))


def _table(report: ManyTopicsReport) -> Table:
    row = (
        f"{report.changes_per_s:,.0f}",
        f"{report.frames_per_s:,.0f}",
        f"{report.cpu_us_per_frame:.2f}",
        f"{report.cores:.2f}",
        *times_ms(report.latency),
    )
    head = ("changes/s", "frames/s", "us/frame", "cores", "p50 ms", "p90", "p99", "p99.9", "max")
    note = (
        f"{report.subscriptions:,} subscriptions. A connection with {TOPICS_EACH} topics: "
        f"{report.bytes_per_connection / 1024:.1f} KiB; handshake, subscriptions and snapshots "
        f"{report.connect_us:,.0f} us of CPU time. Copies of {WITNESSES} witnesses that differ from the "
        f"database: {report.differing}."
    )
    return Table(f"{report.clients:,} clients with {TOPICS_EACH} products each, Zipf", head, [row], note)


MANY_TOPICS: Final = Scenario("many_topics", "10,000 clients with 20 products each, Zipf", _run)
