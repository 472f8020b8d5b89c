"""Commit to client where every client watches a product of its own, over several replicas."""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import asyncpg
import orjson

from load.client import Client, connect
from load.pacing import arrivals, paced
from load.percentiles import Summary, summarize, times_ms
from load.scenario import Bench, Report, Scenario, Table, Verdict
from load.stack import Gateway, Servers, serve_process
from load.waiting import until

__all__ = ["LATENCY_TOPICS", "TopicsLatencyReport", "measure_topics_latency"]

TOPICS: Final = 1000
RATE_PER_S: Final = 1000.0
TARGET_P50_MS: Final = 8.0
TARGET_P99_MS: Final = 40.0
WRITERS: Final = 6
CONNECTING: Final = 50
WARM_UP_S: Final = 2.0
# A change that has not come by then is counted as missing.
PATIENCE_S: Final = 5.0
SNAPSHOTS_S: Final = 60.0
_MS: Final = 1000.0


@dataclass(frozen=True)
class TopicsLatencyReport:
    """Times in ms until the one client of the topic held the change.

    `since_intended`: from when the change was due. `since_sent`: from when its statement, a transaction of
    its own, was sent. `since_returned`: from when its COMMIT was known.
    """

    rate_per_s: float
    topics: int
    replicas: int
    changes: int
    changes_per_s: float
    statement: Summary
    since_intended: Summary
    since_sent: Summary
    since_returned: Summary
    missing: int
    wrong_rows: int


@dataclass
class _Times:
    """By version, in s of `time.monotonic`."""

    intended: dict[int, float] = field(default_factory=dict)
    sent: dict[int, float] = field(default_factory=dict)
    returned: dict[int, float] = field(default_factory=dict)


class _Page:
    """A client that watches one product."""

    def __init__(self, arrivals_: dict[int, float]) -> None:
        self.copy: dict[str, tuple[int, int]] = {}
        self.ready = False
        self.connection: Client | None = None
        self._arrivals = arrivals_

    def on_text(self, payload: bytes, at: float, /) -> None:
        message = orjson.loads(payload)
        kind = message["type"]
        if kind == "error":
            raise RuntimeError(f"the gateway refuses: {message}")
        if kind not in ("delta", "snapshot"):
            return
        for item in message["items"]:
            if item["kind"] != "stock":
                continue
            if kind == "delta":
                self._arrivals.setdefault(item["version"], at)
            key = f"{item['product_id']}:{item['location_id']}"
            if key not in self.copy or self.copy[key][0] < item["version"]:
                self.copy[key] = (item["version"], item["on_hand"])
        self.ready |= kind == "snapshot" and message["last"]


async def measure_topics_latency(
    servers: Servers, gateways: Sequence[Gateway], *, topics: int, rate_per_s: float, seconds: float
) -> TopicsLatencyReport:
    """Commits single-row updates of `topics` products, each watched by one client of one of the gateways."""
    products = await _products(servers, topics)
    came: dict[int, float] = {}
    pages = [_Page(came) for _ in products]
    gate = asyncio.Semaphore(CONNECTING)

    async def open_page(number: int) -> None:
        async with gate:
            url = gateways[number % len(gateways)].realtime_url
            page = pages[number]
            page.connection = await connect(f"{url}?topics=product:{products[number]}", page.on_text)

    try:
        async with asyncio.TaskGroup() as tasks:
            for number in range(topics):
                tasks.create_task(open_page(number))
        await until(lambda: all(page.ready for page in pages), timeout_s=SNAPSHOTS_S)
        await _write(servers, products, _Times(), rate_per_s, WARM_UP_S)
        times = _Times()
        began = time.monotonic()
        await _write(servers, products, times, rate_per_s, seconds)
        took_s = time.monotonic() - began
        with suppress(TimeoutError):  # the report counts it
            await until(lambda: times.returned.keys() <= came.keys(), timeout_s=PATIENCE_S)
        wrong = await _wrong_rows(servers, products, pages)
    finally:
        for page in pages:
            if page.connection is not None:
                page.connection.abort()
    found = [version for version in times.returned if version in came]
    return TopicsLatencyReport(
        rate_per_s=rate_per_s,
        topics=topics,
        replicas=len(gateways),
        changes=len(times.returned),
        changes_per_s=len(times.returned) / took_s,
        statement=summarize((times.returned[v] - times.sent[v]) * _MS for v in times.returned),
        since_intended=summarize((came[v] - times.intended[v]) * _MS for v in found),
        since_sent=summarize((came[v] - times.sent[v]) * _MS for v in found),
        since_returned=summarize((came[v] - times.returned[v]) * _MS for v in found),
        missing=len(times.returned) - len(found),
        wrong_rows=wrong,
    )


async def _products(servers: Servers, count: int) -> list[str]:
    connection = await asyncpg.connect(servers.database_url)
    try:
        query = "SELECT DISTINCT product_id FROM inventory ORDER BY product_id LIMIT $1"
        found = [row[0] for row in await connection.fetch(query, count)]
    finally:
        await connection.close()
    if len(found) < count:
        raise ValueError(f"only {len(found)} products have stock, {count} are needed")
    return found


async def _wrong_rows(servers: Servers, products: Sequence[str], pages: Sequence[_Page]) -> int:
    connection = await asyncpg.connect(servers.database_url)
    try:
        query = "SELECT product_id, location_id, version, on_hand FROM inventory WHERE product_id = ANY($1)"
        rows = await connection.fetch(query, products)
    finally:
        await connection.close()
    held = {key: value for page in pages for key, value in page.copy.items()}
    return sum(held.get(f"{p}:{location}") != (version, on_hand) for p, location, version, on_hand in rows)


async def _write(
    servers: Servers, products: Sequence[str], times: _Times, rate_per_s: float, seconds: float
) -> None:
    async with asyncio.TaskGroup() as tasks:
        for number in range(WRITERS):
            share = list(products[number::WRITERS])
            tasks.create_task(_writer(servers.database_url, share, times, rate_per_s / WRITERS, seconds))


async def _writer(url: str, products: list[str], times: _Times, rate_per_s: float, seconds: float) -> None:
    connection: Any = await asyncpg.connect(url)
    random.shuffle(products)
    try:
        update = await connection.prepare(
            "UPDATE inventory SET on_hand = on_hand + 1 WHERE product_id = $1 AND location_id ="
            " (SELECT min(location_id) FROM inventory WHERE product_id = $1) RETURNING version"
        )
        number = 0
        began = time.monotonic()
        async for moment in paced(arrivals(rate_per_s, seconds)):
            sent = time.monotonic()
            version = await update.fetchval(products[number % len(products)])
            times.returned[version] = time.monotonic()
            times.sent[version] = sent
            times.intended[version] = began + moment
            number += 1
    finally:
        await connection.close()


async def _run(bench: Bench) -> Report:
    """Two replicas with every setting at its default, so that one of them has the active relay too."""
    topics, seconds = (200, 3.0) if bench.quick else (TOPICS, 20.0)
    async with serve_process(bench.servers, "one") as one, serve_process(bench.servers, "two") as two:
        report = await measure_topics_latency(
            bench.servers, (one, two), topics=topics, rate_per_s=RATE_PER_S, seconds=seconds
        )
    return Report(
        tables=[_table(report)],
        figures=asdict(report),
        verdicts=[] if bench.quick else [_verdict(report)],
    )


def _table(report: TopicsLatencyReport) -> Table:
    rows: list[list[object]] = [
        ["the statement, COMMIT included", *times_ms(report.statement)],
        ["at the client, since the change was due", *times_ms(report.since_intended)],
        ["at the client, since it was sent", *times_ms(report.since_sent)],
        ["at the client, since COMMIT returned", *times_ms(report.since_returned)],
    ]
    return Table(
        f"Commit to client, {report.changes_per_s:,.0f} changes/s over {report.topics} products"
        f" with one client each, {report.replicas} replicas",
        ("ms", "p50", "p90", "p99", "p99.9", "max"),
        rows,
        note=f"{report.changes:,} changes, {report.missing} missing, {report.wrong_rows} wrong rows",
    )


def _verdict(report: TopicsLatencyReport) -> Verdict:
    measured = report.since_returned  # as everywhere: a statement is not the gateway's
    return Verdict(
        f"commit to client, {RATE_PER_S:,.0f} changes/s over {TOPICS:,} topics, 2 replicas: "
        f"p50 <= {TARGET_P50_MS:g} ms, p99 <= {TARGET_P99_MS:g} ms",
        f"p50 {measured.p50:.1f} ms, p99 {measured.p99:.1f} ms, {report.missing} missing",
        measured.p50 <= TARGET_P50_MS
        and measured.p99 <= TARGET_P99_MS
        and not report.missing + report.wrong_rows,
    )


LATENCY_TOPICS: Final = Scenario("latency_topics", "commit to client where each watches its own", _run)
