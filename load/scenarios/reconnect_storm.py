"""Everybody reconnects at once, to a replica that has served none of them: how long until all are live."""

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import orjson

from load.copies import Copies, differing_copies, open_copies, product_topics
from load.percentiles import Summary, summarize, times_ms
from load.scenario import Bench, Report, Scenario, Table, Verdict
from load.scenarios.costs import Costs, Meter
from load.sink import Counts, Sinks, Visit, open_sinks
from load.stack import Gateway, Servers, relay_process, serve_process
from load.waiting import until_answered

__all__ = ["RECONNECT_STORM", "StormReport", "measure_reconnect_storm"]

# Connections that keep what they are sent, to be compared with the database.
WITNESSES: Final = 5
TOPICS_A_CONNECTION: Final = 100
CLIENTS: Final = 10_000
TOPICS: Final = 1000
TARGET_S: Final = 8.0
COLD: Final = "topics that nobody has loaded"
LOADED: Final = "topics that Redis holds"
RESUMED: Final = "resuming, one change missed"
LIVE_S: Final = 120.0
EQUAL_S: Final = 20.0
_MS: Final = 1000.0


@dataclass(frozen=True)
class StormReport:
    """`live_s`: from the first connect() to the last client's snapshot, or what it had missed if it resumes.
    `handshakes` in ms, from connect(): with all at once they queue. `differing`: copies of the witnesses that
    are not as the database, at the end."""

    what: str
    clients: int
    topics: int
    live_s: float
    handshakes: Summary
    costs: Costs
    differing: int


async def measure_reconnect_storm(
    servers: Servers,
    home: Gateway | None,
    replica: Gateway,
    *,
    clients: int,
    topics: int,
    resume: bool = False,
    processes: int = 2,
) -> StormReport:
    """`clients` of one product each, of `topics` products, come to `replica` in one moment.

    They come from `home`, which has the topics loaded; None: nobody has. With `resume` each has missed one
    change.
    """
    names = await product_topics(servers, topics)
    async with AsyncExitStack() as stack:
        held = await _hold(stack, home, names) if home is not None else []
        positions = {topic: at for copies in held for topic, at in copies.positions.items()}
        if resume:
            await _change(servers, names)
        visits = [Visit(say=[_subscribe(name, positions[name] if resume else None)]) for name in names]
        sinks = await stack.enter_async_context(open_sinks(processes))
        meter = Meter(servers, replica)
        await meter.begin()
        began = time.monotonic()
        await sinks.begin(urlsplit(replica.gateway_url).port or 0, visits, clients, at_once=0)
        live_at, handshakes = await _live(sinks, clients, "d" if resume else "s")
        costs = await meter.read()
        witnesses = await _hold(stack, replica, names[: WITNESSES * TOPICS_A_CONNECTION])
        await _change(servers, names)
        await sinks.wait_frames((2 if resume else 1) * clients, kind="d", timeout_s=EQUAL_S)
        differing = await _differing(servers, witnesses)
        now = await sinks.counts()
        what = RESUMED if resume else LOADED if held else COLD
        if now.lost:
            raise RuntimeError(f"{now.lost} of {clients} clients were disconnected")
    return StormReport(what, clients, topics, live_at - began, handshakes, costs, differing)


async def _live(sinks: Sinks, clients: int, kind: str) -> tuple[float, Summary]:
    """When the last client had what it waited for, and the handshakes. Raises RuntimeError for a lost one."""
    delays: list[float] = []

    async def look() -> Counts | None:
        now = await sinks.counts()
        delays.extend(now.delays)
        if now.failed or now.lost:
            raise RuntimeError(f"{now.failed} of {clients} clients were refused, {now.lost} lost")
        return now if now.kinds.get(kind, 0) >= clients else None

    counts = await until_answered(look, timeout_s=LIVE_S)
    return counts.last_at, summarize(delay * _MS for delay in delays)


def _subscribe(name: str, position: tuple[str, int] | None) -> bytes:
    message: dict[str, Any] = {"type": "subscribe", "topics": [name]}
    if position is not None:
        message["resume"] = {name: {"epoch": position[0], "seq": position[1]}}
    return orjson.dumps(message)


async def _hold(stack: AsyncExitStack, gateway: Gateway, names: Sequence[str]) -> list[Copies]:
    """Connections that follow them all, until the stack is closed."""
    return [
        await stack.enter_async_context(
            open_copies(gateway.realtime_url, names[first : first + TOPICS_A_CONNECTION])
        )
        for first in range(0, len(names), TOPICS_A_CONNECTION)
    ]


async def _change(servers: Servers, names: Sequence[str]) -> None:
    """One row of each product."""
    connection: Any = await asyncpg.connect(servers.database_url)
    ids = [name.partition(":")[2] for name in names]
    update = """
        UPDATE inventory AS i SET on_hand = on_hand + 1
        FROM (SELECT product_id, min(location_id) AS location_id FROM inventory
              WHERE product_id = ANY ($1::text[]) GROUP BY product_id) AS one
        WHERE (i.product_id, i.location_id) = (one.product_id, one.location_id)
    """
    try:
        await connection.execute(update, ids)
    finally:
        await connection.close()


async def _differing(servers: Servers, witnesses: Sequence[Copies]) -> int:
    """How many copies still differ when what is under way has had time to come."""
    differing = 0

    async def equal() -> bool:
        nonlocal differing
        differing = await differing_copies(servers.database_url, witnesses)
        return not differing

    with suppress(TimeoutError):
        await until_answered(equal, timeout_s=EQUAL_S, interval_s=0.2)
    return differing


async def _run(bench: Bench) -> Report:
    """Each storm breaks over a replica that has just been started."""
    clients, topics = (1000, 200) if bench.quick else (CLIENTS, TOPICS)
    servers = bench.servers
    reports = []
    async with relay_process(servers, "relay"):
        async with serve_process(servers, "cold", relay="off") as replica:
            reports.append(
                await measure_reconnect_storm(servers, None, replica, clients=clients, topics=topics)
            )
        async with serve_process(servers, "home", relay="off") as home:
            for resume in (False, True):
                async with serve_process(servers, f"replica-{resume}", relay="off") as replica:
                    reports.append(
                        await measure_reconnect_storm(
                            servers, home, replica, clients=clients, topics=topics, resume=resume
                        )
                    )
    return Report(
        tables=[storm_table(reports)],
        figures={"storms": [asdict(report) for report in reports]},
        verdicts=[storm_verdict(report) for report in reports],
    )


def storm_table(reports: Sequence[StormReport]) -> Table:
    rows = [
        [
            report.what,
            f"{report.live_s:.1f}",
            f"{report.costs.cpu_s:.1f}",
            f"{report.costs.cpu_s / report.clients * 1e6:.0f}",
            *times_ms(report.handshakes),
            report.costs.loads,
            report.costs.redis_scripts,
            report.differing,
        ]
        for report in reports
    ]
    handshakes = [f"handshake {name}" for name in ("p50", "p90", "p99", "p99.9", "max")]
    head = ("", "all live s", "CPU s", "CPU us each", *handshakes, "loads", "Redis scripts", "differing")
    title = f"{reports[0].clients:,} clients of {reports[0].topics:,} products reconnect at once"
    return Table(title, head, rows, "Handshakes, in ms, are from connect(): all at once, so that they queue.")


def storm_verdict(report: StormReport) -> Verdict:
    limit = report.topics if report.what == COLD else 0
    return Verdict(
        f"reconnect storm, {report.clients:,} clients, {report.what}: all live within {TARGET_S:g} s, "
        f"at most {limit:,} loads",
        f"{report.live_s:.1f} s, {report.costs.loads:,} loads",
        report.live_s <= TARGET_S and report.costs.loads <= limit and not report.differing,
    )


RECONNECT_STORM: Final = Scenario("reconnect_storm", "everybody reconnects at once", _run)
