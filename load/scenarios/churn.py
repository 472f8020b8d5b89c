"""Clients that come, take a snapshot, stay a moment and leave, at random moments: what that costs, and
whether something of them stays behind."""

import asyncio
import time
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import Final

from load.client import ConnectionRefused, connect
from load.copies import Copies, differing_copies, product_topics
from load.pacing import arrivals, paced
from load.percentiles import Summary, summarize, times_ms
from load.scenario import Bench, Report, Scenario, Table, Verdict
from load.scenarios.costs import Costs, Meter, metric
from load.stack import Gateway, Servers, relay_process, serve_process
from load.waiting import until

__all__ = ["CHURN", "ChurnReport", "measure_churn"]

ANSWER_S: Final = 20.0
GONE_S: Final = 20.0
RATE_PER_S: Final = 200
STAY_S: Final = 2.0
TOPICS: Final = 500
# Every so manieth client's copy is compared with the database.
SAMPLE: Final = 10
_MS: Final = 1000.0


@dataclass(frozen=True)
class ChurnReport:
    """`answers` in ms, from the moment a client was due to its snapshot, the handshake included. `loads` of
    `costs`: at most one for each topic, however many ask for it. `left`: connections and topics that the
    replica still has when all are gone."""

    rate_per_s: float
    topics: int
    clients: int
    answers: Summary
    missing: int
    costs: Costs
    left: int
    differing: int


async def measure_churn(
    servers: Servers, gateway: Gateway, *, rate_per_s: float, seconds: float, stay_s: float, topics: int
) -> ChurnReport:
    """Each client follows one product of `topics`, in turn; nobody has loaded them before."""
    names = await product_topics(servers, topics)
    answers: list[float] = []
    kept: list[Copies] = []
    clients = 0
    meter = Meter(servers, gateway)
    await meter.begin()
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        turn = cycle(names)
        async for moment in paced(arrivals(rate_per_s, seconds)):
            copies = kept if clients % SAMPLE == 0 else None
            tasks.create_task(_visit(gateway, next(turn), began + moment, stay_s, answers, copies))
            clients += 1
    costs = await meter.read()
    left = await _left(gateway)
    differing = await differing_copies(servers.database_url, kept)
    missing = clients - len(answers)
    answer = summarize(answer * _MS for answer in answers)
    return ChurnReport(rate_per_s, topics, clients, answer, missing, costs, left, differing)


async def _visit(
    gateway: Gateway, topic: str, due: float, stay_s: float, answers: list[float], kept: list[Copies] | None
) -> None:
    """One client's; whoever is refused or gets nothing is missing among the answers."""
    copies = Copies()
    try:
        client = await connect(f"{gateway.realtime_url}?topics={topic}", copies.on_text, timeout_s=ANSWER_S)
    except (ConnectionRefused, OSError, TimeoutError):
        return
    try:
        await until(lambda: not copies.missing([topic]), timeout_s=ANSWER_S)
        answers.append(copies.completed_at - due)
        await asyncio.sleep(stay_s)
        if kept is not None:
            kept.append(copies)
    except TimeoutError:
        return
    finally:
        client.abort()


async def _left(gateway: Gateway) -> int:
    """Returns without waiting longer than is reasonable."""

    def count() -> int:
        return int(metric(gateway, "gateway_connections") + metric(gateway, "gateway_topics"))

    try:
        await until(lambda: count() == 0, timeout_s=GONE_S, interval_s=0.2)
    except TimeoutError:
        return count()
    return 0


async def _run(bench: Bench) -> Report:
    seconds = 3 if bench.quick else 15
    async with (
        relay_process(bench.servers, "relay"),
        serve_process(bench.servers, "replica", relay="off") as gateway,
    ):
        report = await measure_churn(
            bench.servers, gateway, rate_per_s=RATE_PER_S, seconds=seconds, stay_s=STAY_S, topics=TOPICS
        )
    return Report(tables=[churn_table(report)], figures=asdict(report), verdicts=[churn_verdict(report)])


def churn_table(report: ChurnReport) -> Table:
    row = (
        f"{report.rate_per_s:g} clients/s",
        *times_ms(report.answers),
        report.clients,
        report.missing,
        report.differing,
        f"{report.costs.cpu_s / report.clients * 1e6:.0f}",
        report.costs.loads,
        report.left,
    )
    head = ("ms from due to snapshot", "p50", "p90", "p99", "p99.9", "max", "clients", "missing", "differing")
    return Table("Clients that come and go", (*head, "CPU us each", "loads", "left behind"), [row])


def churn_verdict(report: ChurnReport) -> Verdict:
    return Verdict(
        f"churn: at most one load for each of {report.topics} topics, nothing missing, nothing left behind",
        f"{report.costs.loads} loads, {report.missing} missing, {report.left} left",
        report.costs.loads <= report.topics and not report.missing and not report.left,
    )


CHURN: Final = Scenario("churn", "clients that come, take a snapshot and leave", _run)
