"""Strangers in number: do a thousand good clients notice ten thousand idle ones and a flood of handshakes?"""

import asyncio
import base64
import os
import random
import secrets
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from typing import Final

import orjson

from load.children import StackFailed
from load.client import Client, connect
from load.copies import product_topics
from load.line_worker import LineWorker, line_workers
from load.pacing import arrivals, paced
from load.percentiles import Summary, summarize, times_ms
from load.sales import Sales, sell
from load.scenario import Bench, Report, Scenario, Table, Verdict
from load.sink import Visit, open_sinks
from load.stack import GATEWAY, Gateway, Servers, serve_process
from load.usage import Usage
from load.waiting import until, until_answered

__all__ = ["FLOOD", "HALF_OPEN", "SHAKEN", "FloodReport", "FloodResult", "measure_flood"]

# The defaults. They are set, for only then do they hold for loopback as well.
PER_ADDRESS: Final = 5_000
PER_ADDRESS_PER_S: Final = 200
CLIENTS: Final = 1000
PRODUCTS: Final = 200
SUBJECTS: Final = 4
IDLE: Final = 10_000
SALES_PER_S: Final = 200.0
HANDSHAKES_PER_S: Final = 5000.0
NEWCOMERS_PER_S: Final = 10.0
RATIO: Final = 2.0
FLOODER: Final = "127.0.0.90"
# Of the silent ones; those that have shaken hands come from the addresses of load.sink.
SILENT: Final = tuple(f"127.0.0.{last}" for last in range(70, 78))
SETTLE_S: Final = 3.0
OPEN_S: Final = 60.0
SHAKEN: Final = "idle after the handshake, no credentials"
HALF_OPEN: Final = "half-open: not a byte of a request"
_MS: Final = 1000.0


@dataclass(frozen=True)
class Phase:
    """`latency`: from when a change was due to each client that follows it; `newcomers`: handshakes of good
    clients that come meanwhile. In ms."""

    latency: Summary
    newcomers: Summary
    cores: float
    seconds: float


@dataclass(frozen=True)
class FloodResult:
    """`sent`: handshakes of the flood; `lost`: good clients; `held`: idle ones at the end."""

    idle: str
    quiet: Phase
    flooded: Phase
    sent: int
    admitted: int
    refused: int
    held: int
    reopened: int
    lost: int

    @property
    def ratio(self) -> float:
        return self.flooded.latency.p99 / self.quiet.latency.p99

    @property
    def refused_cpu_us(self) -> float:
        """What the gateway has spent beyond the quiet phase, by refused handshake; the admitted ones are in
        it, and the idle clients."""
        more = (self.flooded.cores - self.quiet.cores) * self.flooded.seconds
        return more / max(1, self.refused) * 1e6


@dataclass(frozen=True)
class FloodReport:
    clients: int
    idle: int
    results: tuple[FloodResult, ...]


class _Good:
    """The good clients, and when each of their deltas came."""

    def __init__(self) -> None:
        self.clients: list[Client] = []
        self.came: list[tuple[int, float]] = []
        self.snapshots = 0

    def on_text(self, payload: bytes, at: float, /) -> None:
        message = orjson.loads(payload)
        if message["type"] == "delta":
            self.came.extend((item["version"], at) for item in message["items"])
        elif message["type"] == "snapshot":
            self.snapshots += message["last"]

    def abort(self) -> None:
        for client in self.clients:
            client.abort()

    @property
    def lost(self) -> int:
        return sum(client.closed.done() for client in self.clients)


async def measure_flood(
    servers: Servers,
    *,
    idle: str,
    clients: int,
    strangers: int,
    handshakes_per_s: float,
    seconds: float,
    settle_s: float = SETTLE_S,
) -> FloodResult:
    """With the settings of the gateway that concern strangers at their defaults. Raises SinkFailed,
    RuntimeError or TimeoutError if a good client is not served."""
    secret = secrets.token_hex(32)
    tokens = [await _mint(servers, secret, f"till-{number}") for number in range(SUBJECTS)]
    topics = (await product_topics(servers, PRODUCTS))[:PRODUCTS]
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(
            serve_process(
                servers,
                f"gateway-{'half-open' if idle == HALF_OPEN else 'idle'}",
                anonymous="public",
                jwt_secret=secret,
                max_connections_per_address=PER_ADDRESS,
                handshakes_per_address_per_s=PER_ADDRESS_PER_S,
            )
        )
        good = _Good()
        stack.callback(good.abort)
        for number in range(clients):
            client = await connect(gateway.realtime_url, good.on_text, token=tokens[number % SUBJECTS])
            client.subscribe([topics[number % len(topics)]])
            good.clients.append(client)
        await until(lambda: good.snapshots >= clients, timeout_s=OPEN_S)
        await _phase(servers, gateway, good, topics, tokens[0], settle_s)
        quiet = await _phase(servers, gateway, good, topics, tokens[0], seconds)
        [silent, flooder] = await stack.enter_async_context(line_workers("load.flood_worker", 2, ["--nice"]))
        if idle == HALF_OPEN:
            await silent.ask("hold", port=gateway.port, sources=SILENT, count=strangers)
            await _held(silent, strangers)
        else:
            sinks = await stack.enter_async_context(open_sinks())
            await sinks.connect(gateway.port, Visit(), strangers)
        await flooder.ask(
            "flood",
            port=gateway.port,
            source=FLOODER,
            rate_per_s=handshakes_per_s,
            request=_request(gateway.port),
        )
        flooded = await _phase(servers, gateway, good, topics, tokens[0], seconds)
        flood, held = await flooder.ask("counts"), await silent.ask("counts")
        lost = good.lost
        open_now = held["held"] if idle == HALF_OPEN else (await sinks.counts()).open
    return FloodResult(
        idle,
        quiet,
        flooded,
        flood["sent"],
        flood["admitted"],
        flood["refused"] + flood["reset"],
        open_now,
        held["closed"],
        lost,
    )


async def _phase(
    servers: Servers, gateway: Gateway, good: _Good, topics: Sequence[str], token: str, seconds: float
) -> Phase:
    """Sales and newcomers for so long. Raises TimeoutError if a newcomer is not welcome within 10 s."""
    sales, ids = Sales(), [topic.partition(":")[2] for topic in topics]
    chance = random.Random(1)
    good.came.clear()
    usage = Usage(gateway.pid)
    async with asyncio.TaskGroup() as tasks:
        selling = sell(
            servers.database_url,
            lambda: chance.choice(ids),
            sales,
            rate_per_s=SALES_PER_S,
            seconds=seconds,
        )
        tasks.create_task(selling)
        coming = tasks.create_task(_newcomers(gateway, token, seconds))
    use = usage.so_far()
    await asyncio.sleep(0.5)  # what is on its way
    latency = summarize((at - sales.due[v]) * _MS for v, at in good.came if v in sales.due)
    return Phase(latency, coming.result(), use.cores, use.seconds)


async def _newcomers(gateway: Gateway, token: str, seconds: float) -> Summary:
    """Good clients that come and go; how long their handshakes take."""
    delays: list[float] = []

    async def come() -> None:
        began = time.monotonic()
        client = await connect(gateway.realtime_url, lambda *_: None, token=token)
        delays.append((time.monotonic() - began) * _MS)
        client.abort()

    async with asyncio.TaskGroup() as tasks:
        async for _ in paced(arrivals(NEWCOMERS_PER_S, seconds)):
            tasks.create_task(come())
    return summarize(delays)


async def _held(worker: LineWorker, count: int) -> None:
    """Until as many are open, or as the gateway lets be: it drops the oldest for each one more."""

    async def enough() -> bool:
        counts = await worker.ask("counts")
        return bool(counts["held"] + counts["closed"] >= count)

    await until_answered(enough, timeout_s=OPEN_S, interval_s=0.1)


def _request(port: int) -> str:
    key = base64.b64encode(os.urandom(16)).decode()
    lines = (
        "GET /realtime HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
    )
    return "\r\n".join((*lines, "", ""))


async def _mint(servers: Servers, secret: str, subject: str) -> str:
    """A token that sees everything, from the command line. Raises StackFailed."""
    who = ("--subject", subject, "--vendor", "*", "--location", "*")
    may = ("--permission", "inv:read:exact", "inv:read:public")
    process = await asyncio.create_subprocess_exec(
        *(*GATEWAY, "token", *who, *may),
        env={**os.environ, "GATEWAY_JWT_SECRET": secret},
        stdin=DEVNULL,
        stdout=PIPE,
    )
    said, _ = await process.communicate()
    if process.returncode != 0:
        raise StackFailed("no token could be minted")
    return said.decode().strip()


async def _run(bench: Bench) -> Report:
    clients, strangers, seconds = (200, 1000, 5.0) if bench.quick else (CLIENTS, IDLE, 15.0)
    results = [
        await measure_flood(
            bench.servers,
            idle=idle,
            clients=clients,
            strangers=strangers,
            handshakes_per_s=HANDSHAKES_PER_S,
            seconds=seconds,
        )
        for idle in (SHAKEN, HALF_OPEN)
    ]
    report = FloodReport(clients, strangers, tuple(results))
    return Report(
        tables=[_latency_table(report), _flood_table(report)],
        figures=asdict(report),
        verdicts=[_verdict(report, result) for result in results],
    )


def _latency_table(report: FloodReport) -> Table:
    rows = [
        [
            f"{name}, {result.idle}",
            *times_ms(phase.latency),
            phase.latency.samples,
            f"{phase.newcomers.p50:.1f}",
            f"{phase.newcomers.p99:.1f}",
            f"{phase.cores:.2f}",
        ]
        for result in report.results
        for name, phase in (("quiet", result.quiet), ("flooded", result.flooded))
    ]
    head = (
        *("ms", "p50", "p90", "p99", "p99.9", "max", "deltas"),
        *("newcomer's handshake p50", "p99", "gateway cores"),
    )
    title = (
        f"{report.clients:,} good clients, {SALES_PER_S:g} changes/s; then {report.idle:,} strangers that "
        "only stay, and one address that floods"
    )
    note = "The attackers have the lowest priority: they get what others leave of the two cores."
    return Table(title, head, rows, note)


def _flood_table(report: FloodReport) -> Table:
    rows = [
        [
            result.idle,
            f"{result.sent / result.flooded.seconds:,.0f}",
            f"{result.admitted:,}",
            f"{result.refused:,}",
            f"{result.refused / result.flooded.seconds:,.0f}",
            f"{result.refused_cpu_us:.0f}",
            f"{result.held:,}",
            f"{result.reopened:,}",
            result.lost,
        ]
        for result in report.results
    ]
    head = (
        *("strangers", "handshakes/s", "admitted", "refused", "refused/s", "CPU us by refused one"),
        *("idle ones open", "closed and come again", "good ones lost"),
    )
    return Table("The flood", head, rows)


def _verdict(report: FloodReport, result: FloodResult) -> Verdict:
    return Verdict(
        f"{report.idle:,} strangers ({result.idle}) and a flood of handshakes from one address: p99 of "
        f"{report.clients:,} good clients within {RATIO:g} x of the quiet phase",
        f"x {result.ratio:.2f} ({result.quiet.latency.p99:.1f} to {result.flooded.latency.p99:.1f} ms) at "
        f"{result.refused / result.flooded.seconds:,.0f} refused/s, {result.lost} lost",
        result.ratio <= RATIO and not result.lost,
    )


FLOOD: Final = Scenario("flood", "strangers in number, who only stay or who hammer at the door", _run)
