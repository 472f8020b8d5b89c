"""What a subscription costs and how soon it is answered: cold, warm, at a rate, and of a very large topic."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import count, cycle
from typing import Final

import orjson

from load.big_location import build_big_location
from load.client import Client, connect
from load.copies import Copies, differing_copies, open_copies, product_topics
from load.pacing import arrivals, paced
from load.percentiles import Summary, summarize, times_ms
from load.scenario import Bench, Report, Scenario, Table, Verdict
from load.scenarios.costs import Costs, Meter
from load.stack import Gateway, Servers, relay_process, serve_process
from load.waiting import until

__all__ = [
    "SNAPSHOTS",
    "LargeReport",
    "SubscribesReport",
    "Transfer",
    "measure_large_snapshot",
    "measure_subscribes",
]

ASKERS: Final = 20
TOPICS_A_MESSAGE: Final = 100
PATIENCE_S: Final = 30.0
LARGE_S: Final = 60.0
# `last` stands within so many bytes of a part, in front of the items.
HEAD_BYTES: Final = 400
# How often the loop of the server is asked whether it is free.
PING_S: Final = 0.005
SETTLE_S: Final = 1.0
PRODUCTS: Final = 1000
LARGE_ITEMS: Final = 100_000
COLD_RATE_PER_S: Final = 50
WARM_RATE_PER_S: Final = 1000
TARGET_P99_MS: Final = 5.0
TARGET_FIRST_MS: Final = 150.0
TARGET_BLOCKED_MS: Final = 20.0
_MS: Final = 1000.0


@dataclass(frozen=True)
class SubscribesReport:
    """Subscribes at random moments, whether or not the ones before are answered. `answers` in ms, from the
    moment a subscribe was due to its snapshot. `warm`: the replica follows the topics."""

    rate_per_s: float
    topics: int
    warm: bool
    subscribes: int
    answers: Summary
    missing: int
    costs: Costs
    differing: int


@dataclass(frozen=True)
class Transfer:
    """One snapshot of a large topic. Times in ms, from the subscribe: its first part, and its last. `pongs`
    of another client meanwhile, who asks every 5 ms: how long the server's loop was busy with one thing."""

    what: str
    first_part: float
    last_part: float
    parts: int
    bytes: int
    pongs: Summary


@dataclass(frozen=True)
class LargeReport:
    """`idle` are pongs while nothing happens: what of the others' is the machine's."""

    items: int
    idle: Summary
    transfers: tuple[Transfer, ...]
    differing: int


class _Asker:
    """A connection that subscribes again and again, and when which subscribe was answered."""

    def __init__(self) -> None:
        self.client: Client | None = None
        self.answered: dict[int, float] = {}
        self.refusals: list[bytes] = []

    def on_text(self, payload: bytes, at: float, /) -> None:
        message = orjson.loads(payload)
        if message["type"] == "snapshot" and message["last"] and "id" in message:
            self.answered[int(message["id"])] = at
        elif message["type"] == "error":
            self.refusals.append(payload)

    def subscribe(self, number: int, topic: str) -> None:
        assert self.client is not None
        self.client.send({"type": "subscribe", "id": str(number), "topics": [topic]})


async def measure_subscribes(
    servers: Servers, gateway: Gateway, *, rate_per_s: float, seconds: float, topics: int, warm: bool
) -> SubscribesReport:
    """`warm`: somebody else follows every topic. Else each subscribe is the first that anybody makes."""
    names = await product_topics(servers, topics)
    async with AsyncExitStack() as stack:
        witnesses: list[Copies] = []
        for first in range(0, len(names) if warm else 0, TOPICS_A_MESSAGE):
            copies = await stack.enter_async_context(
                open_copies(gateway.realtime_url, names[first : first + TOPICS_A_MESSAGE])
            )
            witnesses.append(copies)
        askers = [await stack.enter_async_context(_asker(gateway)) for _ in range(ASKERS)]
        meter = Meter(servers, gateway)
        await asyncio.sleep(SETTLE_S)
        await meter.begin()
        due = await _ask(askers, names, arrivals(rate_per_s, seconds), again=warm)
        await asyncio.sleep(0.1)
        await _answered(askers, len(due))
        costs = await meter.read()
        differing = await differing_copies(servers.database_url, witnesses)
    answered = {number: at for asker in askers for number, at in asker.answered.items()}
    answers = summarize((at - due[number]) * _MS for number, at in answered.items())
    missing = len(due) - len(answered)
    return SubscribesReport(rate_per_s, topics, warm, len(due), answers, missing, costs, differing)


@asynccontextmanager
async def _asker(gateway: Gateway) -> AsyncIterator[_Asker]:
    asker = _Asker()
    asker.client = await connect(gateway.realtime_url, asker.on_text)
    try:
        yield asker
    finally:
        asker.client.abort()


async def _ask(
    askers: Sequence[_Asker], names: Sequence[str], moments: Iterator[float], *, again: bool
) -> dict[int, float]:
    """When each was due, in s of time.monotonic; each topic once, or in turn and `again`."""
    due: dict[int, float] = {}
    topics = cycle(names) if again else iter(names)
    began = time.monotonic()
    numbers = count()
    async for moment in paced(moments):
        topic = next(topics, None)
        if topic is None:
            break
        number = next(numbers)
        due[number] = began + moment
        askers[number % len(askers)].subscribe(number, topic)
    return due


async def _answered(askers: Sequence[_Asker], wanted: int) -> None:
    """Returns without those that do not come: the report counts them."""

    def done() -> bool:
        refusals = [refusal for asker in askers for refusal in asker.refusals]
        if refusals:
            raise RuntimeError(f"the gateway refuses: {refusals[0].decode()}")
        return sum(len(asker.answered) for asker in askers) >= wanted

    try:
        await until(done, timeout_s=PATIENCE_S)
    except TimeoutError:
        return


class _Receiver:
    """Keeps what comes and when; it is looked at afterwards, for this process has the time to take."""

    def __init__(self) -> None:
        self.came: list[tuple[float, bytes]] = []

    def on_text(self, payload: bytes, at: float, /) -> None:
        self.came.append((at, payload))

    def complete(self) -> bool:
        """Raises RuntimeError if the gateway refused the topic."""
        if self.came and self.came[-1][1].startswith(b'{"type":"error"'):
            raise RuntimeError(f"the gateway refuses: {self.came[-1][1].decode()}")
        return bool(self.came) and b'"last":true' in self.came[-1][1][:HEAD_BYTES]

    def parts(self) -> list[tuple[float, bytes]]:
        return [(at, payload) for at, payload in self.came if payload.startswith(b'{"type":"snapshot"')]

    def copies(self) -> Copies:
        copies = Copies()
        for at, payload in self.came:
            copies.on_text(payload, at)
        return copies


class _Pinger:
    """Asks at its own pace whether the server's loop is free."""

    def __init__(self) -> None:
        self.client: Client | None = None
        self._sent: dict[str, float] = {}
        self._delays: list[float] = []

    def on_text(self, payload: bytes, at: float, /) -> None:
        message = orjson.loads(payload)
        if message["type"] == "pong":
            self._delays.append(at - self._sent.pop(message["id"]))

    async def run(self) -> None:
        assert self.client is not None
        for number in count():
            due = self._sent[str(number)] = time.monotonic()
            self.client.send({"type": "ping", "id": str(number)})
            await asyncio.sleep(max(0.0, due + PING_S - time.monotonic()))

    def forget(self) -> None:
        """What has been measured so far."""
        self._delays.clear()

    def take(self) -> Summary:
        """Since it was last told to forget."""
        return summarize(delay * _MS for delay in self._delays)


async def measure_large_snapshot(servers: Servers, gateway: Gateway, *, items: int) -> LargeReport:
    """A location of so many items: loaded from Postgres, then from Redis, each to one client."""
    topic = await build_big_location(servers, items)
    transfers = []
    async with _pinger(gateway) as pinger:
        await asyncio.sleep(SETTLE_S)
        pinger.forget()
        await asyncio.sleep(SETTLE_S)
        idle = pinger.take()
        differing = 0
        plan = (
            ("cold", None),
            ("warm", None),
            ("warm", None),
            ("public, cold", "public"),
            ("public", "public"),
        )
        async with AsyncExitStack() as stack:
            for what, view in plan:
                receiver, client = await stack.enter_async_context(_receiver(gateway))
                pinger.forget()
                transfers.append(await _transfer(receiver, client, topic, view, what, pinger))
                if view is None:
                    differing += await differing_copies(servers.database_url, [receiver.copies()])
    return LargeReport(items, idle, tuple(transfers), differing)


async def _transfer(
    receiver: _Receiver, client: Client, topic: str, view: str | None, what: str, pinger: _Pinger
) -> Transfer:
    began = time.monotonic()
    client.send({"type": "subscribe", "topics": [topic]} | ({} if view is None else {"view": view}))
    await until(receiver.complete, timeout_s=LARGE_S)
    await asyncio.sleep(SETTLE_S)  # what follows from it is not to hold up the loop either
    parts = receiver.parts()
    first, last = ((parts[n][0] - began) * _MS for n in (0, -1))
    return Transfer(what, first, last, len(parts), sum(len(p) for _, p in parts), pinger.take())


@asynccontextmanager
async def _receiver(gateway: Gateway) -> AsyncIterator[tuple[_Receiver, Client]]:
    receiver = _Receiver()
    client = await connect(gateway.realtime_url, receiver.on_text)
    try:
        yield receiver, client
    finally:
        client.abort()


@asynccontextmanager
async def _pinger(gateway: Gateway) -> AsyncIterator[_Pinger]:
    """Asks as long as the block lasts."""
    pinger = _Pinger()
    pinger.client = await connect(gateway.realtime_url, pinger.on_text)
    task = asyncio.create_task(pinger.run())
    try:
        yield pinger
    finally:
        task.cancel()
        pinger.client.abort()
        with suppress(asyncio.CancelledError):
            await task


async def _run(bench: Bench) -> Report:
    """The relay has a process of its own: what is measured is the replica."""
    seconds, items = (3, 20_000) if bench.quick else (15, LARGE_ITEMS)
    async with (
        relay_process(bench.servers, "relay"),
        serve_process(bench.servers, "replica", relay="off") as gateway,
    ):
        cold = await measure_subscribes(
            bench.servers, gateway, rate_per_s=COLD_RATE_PER_S, seconds=seconds, topics=PRODUCTS, warm=False
        )
        warm = await measure_subscribes(
            bench.servers, gateway, rate_per_s=WARM_RATE_PER_S, seconds=seconds, topics=PRODUCTS, warm=True
        )
        large = await measure_large_snapshot(bench.servers, gateway, items=items)
    return Report(
        tables=[subscribes_table([cold, warm]), large_table(large)],
        figures={"subscribes": [asdict(cold), asdict(warm)], "large": asdict(large)},
        verdicts=[warm_verdict(warm), *large_verdicts(large)],
    )


def subscribes_table(reports: Sequence[SubscribesReport]) -> Table:
    rows = [
        [
            f"{'warm' if report.warm else 'cold'}, {report.rate_per_s:g}/s",
            *times_ms(report.answers),
            report.subscribes,
            report.missing,
            report.differing,
            f"{report.costs.cpu_s / report.subscribes * 1e6:.0f}",
            report.costs.loads,
            f"{report.costs.redis_reads / report.subscribes:.2f}",
        ]
        for report in reports
    ]
    head = ("ms from due to snapshot", "p50", "p90", "p99", "p99.9", "max", "subscribes", "missing")
    more = ("differing", "CPU us each", "loads", "Redis reads each")
    note = "Redis reads include those of the relay, which beats and polls meanwhile."
    return Table("Snapshots of products", (*head, *more), rows, note)


def large_table(report: LargeReport) -> Table:
    rows: list[list[object]] = [["nothing", "", "", "", "", *times_ms(report.idle)]]
    for each in report.transfers:
        sent = (each.parts, f"{each.bytes / 1e6:.1f}")
        times = (f"{each.first_part:.0f}", f"{each.last_part:.0f}")
        rows.append([each.what, *times, *sent, *times_ms(each.pongs)])
    pongs = [f"pong {name}" for name in ("p50", "p90", "p99", "p99.9", "max")]
    head = ("snapshot", "first part ms", "last ms", "parts", "MB", *pongs)
    note = "Pongs, in ms, are another client's, who asks every 5 ms while the snapshot is under way."
    return Table(f"A location of {report.items:,} items", head, rows, note)


def warm_verdict(report: SubscribesReport) -> Verdict:
    return Verdict(
        f"warm snapshot of a product, {WARM_RATE_PER_S:,}/s: p99 <= {TARGET_P99_MS:g} ms, no SQL",
        f"p99 {report.answers.p99:.1f} ms, {report.costs.loads} loads, {report.missing} missing",
        report.answers.p99 <= TARGET_P99_MS and not report.costs.loads and not report.missing,
    )


def large_verdicts(report: LargeReport) -> list[Verdict]:
    warm = [each for each in report.transfers if each.what == "warm"]
    first = max(each.first_part for each in warm)
    blocked = max(each.pongs.max for each in report.transfers)
    return [
        Verdict(
            f"snapshot of {report.items:,} items: first part <= {TARGET_FIRST_MS:g} ms",
            f"{first:.0f} ms",
            first <= TARGET_FIRST_MS,
        ),
        Verdict(
            f"snapshot of {report.items:,} items: a pong within {TARGET_BLOCKED_MS:g} ms all the while",
            f"{blocked:.1f} ms (idle: {report.idle.max:.1f} ms)",
            blocked <= TARGET_BLOCKED_MS,
        ),
    ]


SNAPSHOTS: Final = Scenario("snapshots", "subscribes at a rate, and a location of 100,000 items", _run)
