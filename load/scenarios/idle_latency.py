"""Commit to client: how long after COMMIT a subscriber holds the change, on an otherwise idle stack."""

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

__all__ = ["IDLE_LATENCY", "LatencyReport", "LatencyResult", "measure_latency"]

PRODUCTS: Final = 200
CONNECTIONS: Final = 4
# Poisson arrivals overlap now and then; one that waits for a connection would not be measured when it came.
WRITERS: Final = 4
WARM_UP_S: Final = 1.5
# A change that has not come by then is counted as missing.
PATIENCE_S: Final = 5.0
SNAPSHOTS_S: Final = 30.0
_MS: Final = 1000.0
# Of product topics at TARGET_RATE_PER_S on an idle machine of two cores.
TARGET_RATE_PER_S: Final = 100
TARGET_P50_MS: Final = 10.0
TARGET_P99_MS: Final = 30.0


@dataclass(frozen=True)
class LatencyResult:
    """One kind of topic. Times in ms: since COMMIT returned, and since just before it was sent."""

    topics: str
    since_commit_returned: Summary
    since_commit_sent: Summary
    missing: int


@dataclass(frozen=True)
class LatencyReport:
    rate_per_s: float
    changes: int
    commit: Summary
    results: tuple[LatencyResult, ...]


class Receipts:
    """When each version first came to the subscribers of one kind of topic."""

    def __init__(self) -> None:
        self.first: dict[int, float] = {}
        self._snapshots = 0
        self._refusal: bytes | None = None

    def on_text(self, payload: bytes, at: float, /) -> None:
        message = orjson.loads(payload)
        if message["type"] == "delta":
            for item in message["items"]:
                self.first.setdefault(item["version"], at)
        elif message["type"] == "snapshot" and message["last"]:
            self._snapshots += 1
        elif message["type"] == "error":
            self._refusal = payload

    def complete(self, snapshots: int) -> bool:
        """Whether so many have come. Raises RuntimeError if the gateway refused a topic."""
        if self._refusal is not None:
            raise RuntimeError(f"the gateway refuses: {self._refusal.decode()}")
        return self._snapshots >= snapshots


@dataclass
class Commits:
    """By version, in s of `time.monotonic`."""

    sent: dict[int, float] = field(default_factory=dict)
    returned: dict[int, float] = field(default_factory=dict)

    def result(self, topics: str, receipts: Receipts) -> LatencyResult:
        """Raises ValueError if nothing came."""
        came = [version for version in self.returned if version in receipts.first]
        return LatencyResult(
            topics,
            summarize((receipts.first[version] - self.returned[version]) * _MS for version in came),
            summarize((receipts.first[version] - self.sent[version]) * _MS for version in came),
            len(self.returned) - len(came),
        )


async def measure_latency(
    servers: Servers, gateway: Gateway, *, rate_per_s: float, seconds: float
) -> LatencyReport:
    """Commits single-row updates of many products to subscribers of those products and of a location."""
    location, products = await _shelves(servers)
    of_products, of_location = Receipts(), Receipts()
    clients = await _subscribe(gateway, location, products, of_products, of_location)
    try:
        await until(lambda: of_products.complete(len(products)), timeout_s=SNAPSHOTS_S)
        await until(lambda: of_location.complete(1), timeout_s=SNAPSHOTS_S)
        await _write(servers, location, products, Commits(), rate_per_s, WARM_UP_S)
        commits = Commits()
        await _write(servers, location, products, commits, rate_per_s, seconds)
        await _until_received(commits, (of_products, of_location))
    finally:
        for client in clients:
            client.abort()
    commit = summarize((commits.returned[v] - commits.sent[v]) * _MS for v in commits.returned)
    results = (
        commits.result(f"{len(products)} product topics", of_products),
        commits.result("1 location topic", of_location),
    )
    return LatencyReport(rate_per_s, len(commits.returned), commit, results)


async def _shelves(servers: Servers) -> tuple[str, list[str]]:
    """A location and products it has stock of."""
    connection = await asyncpg.connect(servers.database_url)
    try:
        location = await connection.fetchval("SELECT min(location_id) FROM inventory")
        query = "SELECT product_id FROM inventory WHERE location_id = $1 ORDER BY product_id LIMIT $2"
        return location, [row[0] for row in await connection.fetch(query, location, PRODUCTS)]
    finally:
        await connection.close()


async def _subscribe(
    gateway: Gateway, location: str, products: Sequence[str], of_products: Receipts, of_location: Receipts
) -> list[Client]:
    clients = [await connect(gateway.realtime_url, of_products.on_text) for _ in range(CONNECTIONS)]
    for number, client in enumerate(clients):
        client.subscribe(f"product:{product}" for product in products[number::CONNECTIONS])
    terminal = await connect(gateway.realtime_url, of_location.on_text)
    terminal.subscribe([f"location:{location}"])
    return [*clients, terminal]


async def _until_received(commits: Commits, receipts: Sequence[Receipts]) -> None:
    """Returns without what does not come: the result counts it."""
    with suppress(TimeoutError):
        await until(
            lambda: all(commits.returned.keys() <= each.first.keys() for each in receipts),
            timeout_s=PATIENCE_S,
        )


async def _write(
    servers: Servers,
    location: str,
    products: Sequence[str],
    commits: Commits,
    rate_per_s: float,
    seconds: float,
) -> None:
    async with asyncio.TaskGroup() as tasks:
        for number in range(WRITERS):
            share = list(products[number::WRITERS])
            work = _writer(servers.database_url, location, share, commits, rate_per_s / WRITERS, seconds)
            tasks.create_task(work)


async def _writer(
    url: str, location: str, products: list[str], commits: Commits, rate_per_s: float, seconds: float
) -> None:
    connection: Any = await asyncpg.connect(url)
    random.shuffle(products)
    try:
        update = await connection.prepare(
            "UPDATE inventory SET on_hand = on_hand + 1 WHERE product_id = $1 AND location_id = $2 "
            "RETURNING version"
        )
        number = 0
        async for _ in paced(arrivals(rate_per_s, seconds)):
            transaction = connection.transaction()
            await transaction.start()
            version = await update.fetchval(products[number % len(products)], location)
            # Known before COMMIT: the change may be here before the answer to COMMIT is.
            commits.sent[version] = time.monotonic()
            await transaction.commit()
            commits.returned[version] = time.monotonic()
            number += 1
    finally:
        await connection.close()


async def _run(bench: Bench) -> Report:
    """With every setting at its default, in the one process that most people run."""
    rates, seconds = ((TARGET_RATE_PER_S,), 5) if bench.quick else ((10, TARGET_RATE_PER_S), 20)
    async with serve_process(bench.servers, "gateway") as gateway:
        reports = [
            await measure_latency(bench.servers, gateway, rate_per_s=rate, seconds=seconds) for rate in rates
        ]
    return Report(
        tables=[latency_table(report) for report in reports],
        figures={"rates": [asdict(report) for report in reports]},
        verdicts=[latency_verdict(report) for report in reports if report.rate_per_s == TARGET_RATE_PER_S],
    )


def latency_table(report: LatencyReport) -> Table:
    rows: list[list[object]] = [["COMMIT itself", *times_ms(report.commit), report.changes, ""]]
    for result in report.results:
        for what, summary in (
            ("since COMMIT returned", result.since_commit_returned),
            ("since COMMIT was sent", result.since_commit_sent),
        ):
            rows.append([f"{result.topics}, {what}", *times_ms(summary), summary.samples, result.missing])
    head = ("ms", "p50", "p90", "p99", "p99.9", "max", "changes", "missing")
    return Table(f"Commit to client, {report.rate_per_s:g} changes/s, idle stack", head, rows)


def latency_verdict(report: LatencyReport) -> Verdict:
    measured = report.results[0].since_commit_returned
    return Verdict(
        f"product topics, {TARGET_RATE_PER_S} changes/s, idle: p50 <= {TARGET_P50_MS:g} ms, "
        f"p99 <= {TARGET_P99_MS:g} ms",
        f"p50 {measured.p50:.1f} ms, p99 {measured.p99:.1f} ms",
        measured.p50 <= TARGET_P50_MS and measured.p99 <= TARGET_P99_MS,
    )


IDLE_LATENCY: Final = Scenario(
    "idle_latency", "commit to client on an otherwise idle stack", _run, in_quick=True
)
