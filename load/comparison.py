"""Servers side by side: what a delivery and an idle connection cost each, in turns of one run."""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from load.children import StackFailed
from load.pacing import paced
from load.peers.peer import Peer, Serving, payload_of
from load.sink import Counts, Sinks, open_sinks
from load.usage import Usage, pids_of_tree, pin_tree, proportional_bytes
from load.waiting import until_answered

__all__ = ["Comparison", "Plan", "Standing", "Turn", "compare", "frame_payload_bytes", "keep_apart", "ratios"]

# These come first, so that what a server sets up once is not counted for the others.
WARM_UP_CLIENTS: Final = 50
WARM_UP_TURN_S: Final = 0.5
SETTLE_S: Final = 0.5
# Nothing has come for so long: what is missing then will not come.
QUIET_S: Final = 0.3
LOOK_S: Final = 0.02
SUBSCRIBED_S: Final = 60.0
# Until the gateway has shown how large its deltas are.
FIRST_PAYLOAD_BYTES: Final = 300


@dataclass(frozen=True)
class Plan:
    """`rates_per_s`: publishes a second, each to all clients; a turn of each rate lasts `turn_s`."""

    clients: int
    rates_per_s: Sequence[float]
    turn_s: float
    rounds: int
    sinks: int = 1


@dataclass(frozen=True)
class Turn:
    """`cpu_s` is that of the server's process tree; `sink_cpu_s` that of the clients'."""

    name: str
    rate_per_s: float
    round: int
    published: int
    expected: int
    frames: int
    seconds: float
    cpu_s: float
    sink_cpu_s: float

    @property
    def us_per_frame(self) -> float:
        return self.cpu_s / self.frames * 1e6


@dataclass(frozen=True)
class Standing:
    """A server with its idle clients. `processes`: of its tree; `wire_bytes`: of a delivery with header."""

    name: str
    bytes_per_connection: float
    connect_us: float
    wire_bytes: float
    processes: int


@dataclass(frozen=True)
class Comparison:
    """`failed`: what servers said that are installed and did not start, by name."""

    payload_bytes: int
    standings: Sequence[Standing]
    turns: Sequence[Turn]
    failed: Sequence[tuple[str, str]]


def frame_payload_bytes(wire_bytes: float) -> int:
    """Of a server's frame with its header (RFC 6455, 5.2), rounded."""
    size = round(wire_bytes)
    return size - (2 if size < 2 + 126 else 4 if size < 4 + 65536 else 10)


def ratios(turns: Sequence[Turn], name: str, bases: Sequence[str], rate_per_s: float) -> list[float]:
    """The server's cost of a delivery by that of the cheapest of `bases` in the same round, of each round."""

    def cost(who: Sequence[str], number: int) -> list[float]:
        return [
            turn.us_per_frame
            for turn in turns
            if turn.name in who and turn.round == number and turn.rate_per_s == rate_per_s
        ]

    rounds = sorted({turn.round for turn in turns})
    return [cost([name], number)[0] / min(cost(bases, number)) for number in rounds]


async def compare(required: Sequence[Peer], optional: Sequence[Peer], plan: Plan) -> Comparison:
    """All of them run and hold their clients from the beginning to the end; one at a time is published to.

    The payload is as large as that of the first of `required`. Of the `optional`, those that do not start
    are left out. Raises StackFailed, SinkFailed, TimeoutError.
    """
    payload = payload_of(FIRST_PAYLOAD_BYTES)
    stations: list[_Station] = []
    standings: list[Standing] = []
    failed: list[tuple[str, str]] = []
    async with AsyncExitStack() as stack:
        for peer in (*required, *optional):
            try:
                serving = await stack.enter_async_context(_started(peer))
            except StackFailed as error:
                if peer in required:
                    raise
                failed.append((peer.name, str(error)))
                continue
            sinks = await stack.enter_async_context(open_sinks(plan.sinks))
            keep_apart(serving.pid, sinks.pids)
            station = _Station(peer.name, serving, sinks)
            standings.append(await station.gather(plan.clients, payload))
            if not stations:
                payload = payload_of(frame_payload_bytes(standings[0].wire_bytes))
            stations.append(station)
        for station in stations:
            await station.turn(0, plan.rates_per_s[0], WARM_UP_TURN_S, payload)
        turns = [
            await station.turn(number, rate, plan.turn_s, payload)
            for number in range(1, plan.rounds + 1)
            for rate in plan.rates_per_s
            for station in stations
        ]
    return Comparison(len(payload), standings, turns, failed)


@asynccontextmanager
async def _started(peer: Peer) -> AsyncIterator[Serving]:
    with tempfile.TemporaryDirectory(prefix="igw-peer-", ignore_cleanup_errors=True) as name:
        async with peer.start(Path(name)) as serving:
            yield serving


def keep_apart(server: int, clients: Sequence[int]) -> None:
    """Takes process ids. Each server has the same core, its clients the others: where a client runs decides
    what waking it costs the server, and left to chance that hides all else. On a machine of one core nothing
    is done."""
    first, *others = sorted(os.sched_getaffinity(0))
    if others:
        pin_tree(server, {first})
        for pid in clients:
            pin_tree(pid, set(others))


class _Station:
    """A server that runs, and the sinks that are its clients."""

    def __init__(self, name: str, serving: Serving, sinks: Sinks) -> None:
        self._name = name
        self._serving = serving
        self._sinks = sinks
        self._clients = 0

    async def gather(self, clients: int, payload: bytes) -> Standing:
        """Connects and subscribes them."""
        first = min(WARM_UP_CLIENTS, clients // 2)
        await self._connect(first)
        await self._wait_subscribed(payload)
        before, usage = proportional_bytes(self._serving.pid), Usage(self._serving.pid)
        await self._connect(clients - first)
        await asyncio.sleep(SETTLE_S)
        after, used_s = proportional_bytes(self._serving.pid), usage.so_far().cpu_s
        wire_bytes = await self._wait_subscribed(payload)
        added = clients - first
        processes = len(pids_of_tree(self._serving.pid))
        return Standing(self._name, (after - before) / added, used_s / added * 1e6, wire_bytes, processes)

    async def turn(self, number: int, rate_per_s: float, seconds: float, payload: bytes) -> Turn:
        """Evenly spaced, so that deliveries do not meet. Ends when all have come, or no more do."""
        published = round(rate_per_s * seconds)
        expected = published * self._clients
        before, usage = await self._sinks.counts(), Usage(self._serving.pid)
        async for _ in paced(index / rate_per_s for index in range(published)):
            await self._serving.publish(payload)
        after = await self._settled(self._delivered(before) + expected)
        use = usage.so_far()
        frames = self._delivered(after) - self._delivered(before)
        if not frames or after.lost:
            raise StackFailed(f"{self._name}: {frames} frames were delivered, {after.lost} clients lost")
        sink_cpu_s = after.cpu_s - before.cpu_s
        return Turn(
            *(self._name, rate_per_s, number, published, expected, frames),
            *(use.seconds, use.cpu_s, sink_cpu_s),
        )

    async def _connect(self, count: int) -> None:
        await self._sinks.connect(self._serving.port, self._serving.visit, count)
        self._clients += count
        await self._settled(None)

    async def _wait_subscribed(self, payload: bytes) -> float:
        """Until what is published reaches everybody; the bytes of one delivery."""

        async def reached() -> float:
            before = await self._sinks.counts()
            await self._serving.publish(payload)
            after = await self._settled(self._delivered(before) + self._clients)
            came = self._delivered(after) - self._delivered(before)
            return (after.bytes - before.bytes) / came if came == self._clients else 0

        return await until_answered(reached, timeout_s=SUBSCRIBED_S)

    def _delivered(self, counts: Counts) -> int:
        kind = self._serving.kind
        return counts.frames if kind is None else counts.kinds.get(kind, 0)

    async def _settled(self, frames: int | None) -> Counts:
        """When so many have come, or nothing for a while."""
        counts, changed_at = await self._sinks.counts(), time.monotonic()
        while frames is None or self._delivered(counts) < frames:
            if time.monotonic() - changed_at > QUIET_S:
                break
            await asyncio.sleep(LOOK_S)
            before, counts = counts, await self._sinks.counts()
            if counts.frames != before.frames:
                changed_at = time.monotonic()
        return counts
