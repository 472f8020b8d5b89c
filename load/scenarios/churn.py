"""Clients that come, take a snapshot, stay a moment and leave, at random moments: what that costs, and
whether something of them stays behind."""

import asyncio
import time
from dataclasses import dataclass
from itertools import cycle
from typing import Final

from load.client import ConnectionRefused, connect
from load.copies import Copies, differing_copies, product_topics
from load.pacing import arrivals, paced
from load.percentiles import Summary, summarize
from load.scenarios.costs import Costs, Meter, metric
from load.stack import Gateway, Servers
from load.waiting import until

__all__ = ["ChurnReport", "measure_churn"]

ANSWER_S: Final = 20.0
GONE_S: Final = 20.0
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
