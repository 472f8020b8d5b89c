"""Many connections that hear little: their memory, their heartbeats, and one change that reaches all."""

import asyncio
import math
import time
from dataclasses import asdict, dataclass
from typing import Final

from load.processes import raise_file_limit
from load.product import Product, changing_product
from load.scenario import Bench, Report, Scenario, Table, Verdict
from load.sink import Sinks, Visit, open_sinks
from load.stack import Gateway, Servers, relay_process, serve_process
from load.usage import Usage, proportional_bytes

__all__ = ["CONNECTIONS", "ConnectionsReport", "measure_connections"]

# Of the open files of a process, those that are no connections of clients.
OTHER_FILES: Final = 200
# The first clients, for what a process makes once; those that are measured come after them.
FIRST: Final = 200
SETTLE_S: Final = 3.0
ARRIVAL_S: Final = 60.0
CONNECT_S: Final = 300.0
CHANGES: Final = 3

BUDGET_KIB: Final = 7.0
BUDGET_IDLE_CORES: Final = 0.03
BUDGET_ALL_S: Final = 3.0
BUDGET_BYTES: Final = 1.2e9
CROWD: Final = 100_000


@dataclass(frozen=True)
class ConnectionsReport:
    """`connect_us`: the gateway's CPU time for a handshake, a subscription and its snapshot. `idle_cores`
    include heartbeats, `idle_cores_without` is the same gateway with FIRST clients. `arrivals_s`: from before
    the statement to the last client's frame, for each change."""

    clients: int
    workers: int
    connect_s: float
    connect_us: float
    bytes_per_connection: float
    gateway_bytes: int
    idle_cores: float
    idle_cores_without: float
    arrivals_s: tuple[float, ...]
    change_us_per_frame: float


async def measure_connections(
    servers: Servers, gateway: Gateway, sinks: Sinks, *, clients: int, workers: int, idle_s: float
) -> ConnectionsReport:
    """`clients` subscribers of one product; the gateway has its default heartbeat interval.

    Raises SinkFailed or TimeoutError if one of them does not get its snapshot or a change.
    """
    async with changing_product(servers) as product:
        visit = Visit(f"/realtime?topics={product.topic}")
        await _gather(sinks, gateway, visit, FIRST)
        idle_without = await _idle_cores(gateway, idle_s)
        before, usage = proportional_bytes(gateway.pid), Usage(gateway.pid)
        connect_s = await _gather(sinks, gateway, visit, clients - FIRST)
        connect_us = usage.so_far().cpu_s / (clients - FIRST) * 1e6
        await asyncio.sleep(SETTLE_S)
        grown = proportional_bytes(gateway.pid)
        idle = await _idle_cores(gateway, idle_s)
        usage = Usage(gateway.pid)
        arrivals = [await _change(product, sinks, clients) for _ in range(CHANGES)]
        change_us = usage.so_far().cpu_s / (clients * CHANGES) * 1e6
    return ConnectionsReport(
        clients,
        workers,
        connect_s,
        connect_us,
        (grown - before) / (clients - FIRST),
        proportional_bytes(gateway.pid),
        idle,
        idle_without,
        tuple(arrivals),
        change_us,
    )


async def _gather(sinks: Sinks, gateway: Gateway, visit: Visit, count: int) -> float:
    before, began = (await sinks.counts()).kinds.get("s", 0), time.monotonic()
    await sinks.connect(gateway.port, visit, count, timeout_s=CONNECT_S)
    counts = await sinks.wait_frames(before + count, kind="s", timeout_s=ARRIVAL_S)
    return counts.last_at - began


async def _idle_cores(gateway: Gateway, seconds: float) -> float:
    usage = Usage(gateway.pid)
    await asyncio.sleep(seconds)
    return usage.so_far().cores


async def _change(product: Product, sinks: Sinks, clients: int) -> float:
    """How long the last client waited, in s."""
    before, began = (await sinks.counts()).kinds.get("d", 0), time.monotonic()
    await product.change()
    counts = await sinks.wait_frames(before + clients, kind="d", timeout_s=ARRIVAL_S)
    return counts.last_at - began


async def _measure(bench: Bench, *, clients: int, idle_s: float) -> ConnectionsReport:
    """As many processes on either side as their open files need; the relay is in another one."""
    a_process = raise_file_limit() - OTHER_FILES
    # All accept on one socket, so one has more than another: leave room for a fifth.
    workers = 1 if clients < a_process else math.ceil(clients * 1.2 / a_process)
    processes = math.ceil(clients / a_process)
    async with (
        relay_process(bench.servers, "relay"),
        serve_process(bench.servers, "replicas", relay="off", workers=workers) as gateway,
        open_sinks(processes) as sinks,
    ):
        return await measure_connections(
            bench.servers, gateway, sinks, clients=clients, workers=workers, idle_s=idle_s
        )


async def _run(bench: Bench) -> Report:
    plans = ((2_000, 5.0),) if bench.quick else ((10_000, 20.0), (CROWD, 20.0))
    reports = [await _measure(bench, clients=clients, idle_s=idle_s) for clients, idle_s in plans]
    return Report(
        tables=[_table(reports)],
        figures={"runs": [asdict(report) for report in reports]},
        verdicts=[verdict for report in reports for verdict in _verdicts(report)],
    )


def _table(reports: list[ConnectionsReport]) -> Table:
    rows = [
        (
            f"{report.clients:,}",
            report.workers,
            f"{report.connect_s:.1f}",
            f"{report.connect_us:.0f}",
            f"{report.bytes_per_connection / 1024:.2f}",
            f"{report.gateway_bytes / 2**20:.0f}",
            f"{100 * report.idle_cores:.1f}",
            f"{100 * report.idle_cores_without:.1f}",
            " ".join(f"{seconds:.2f}" for seconds in report.arrivals_s),
            f"{report.change_us_per_frame:.1f}",
        )
        for report in reports
    ]
    head = (
        "connections",
        "processes",
        "all live after s",
        "us each",
        "KiB each",
        "MiB in all",
        "idle % of a core",
        f"with {FIRST}",
        "a change at all of them after s",
        "us/frame",
    )
    return Table("Connections that hear little: one topic, heartbeats every 20 s", head, rows)


def _verdicts(report: ConnectionsReport) -> list[Verdict]:
    kib = report.bytes_per_connection / 1024
    verdicts = [
        Verdict(
            f"resident memory per idle connection with one subscription, all told, of {report.clients:,}: "
            f"<= {BUDGET_KIB:g} KiB",
            f"{kib:.2f} KiB",
            kib <= BUDGET_KIB,
        )
    ]
    if report.workers == 1:
        verdicts.append(
            Verdict(
                f"idle CPU of {report.clients:,} connections, heartbeats included: < "
                f"{100 * BUDGET_IDLE_CORES:g} % of a core",
                f"{100 * report.idle_cores:.1f} %",
                report.idle_cores < BUDGET_IDLE_CORES,
            )
        )
    if report.clients >= CROWD:
        worst, size = max(report.arrivals_s), report.gateway_bytes
        verdicts.append(
            Verdict(
                f"{CROWD:,} connections: all subscribed, one change at all of them within "
                f"{BUDGET_ALL_S:g} s, gateway memory < {BUDGET_BYTES / 1e9:g} GB",
                f"{worst:.2f} s, {size / 1e9:.2f} GB",
                worst <= BUDGET_ALL_S and size < BUDGET_BYTES,
            )
        )
    return verdicts


CONNECTIONS: Final = Scenario(
    "connections", "10,000 and 100,000 that hear little: memory, heartbeats, one change", _run, in_quick=True
)
