"""The cheap side of a load: processes that hold many WebSocket connections and count what arrives.

A frame costs a fraction of what it costs the server, so that the two fit on one machine. One process may be
limited to 20,000 open files, and an address to some 28,000 ports, so there are several of both.
"""

import asyncio
import base64
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any, Final

from load.frames import client_frame
from load.line_worker import LineWorker, line_workers
from load.waiting import until_answered

__all__ = ["Counts", "SinkFailed", "Sinks", "Visit", "open_sinks"]

# Connections that one process opens at the same time: more would measure the listening socket's backlog.
AT_ONCE: Final = 100
ADDRESSES: Final = 8


class SinkFailed(RuntimeError):
    """Connections were refused or lost."""


@dataclass(frozen=True)
class Visit:
    """What one connection asks for. `say` are messages sent after the handshake."""

    target: str = "/realtime"
    subprotocol: str | None = "inventory.v1"
    say: Sequence[bytes] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Counts:
    """Of all processes. `kinds`: data frames by the letter that their type begins with, "d" for `delta`;
    `waiting`: not yet open; `failed`: refused; `lost`: ended by the server; `last_at`: when the last bytes
    came (time.monotonic); `delays`: of handshakes since the last look, in s."""

    frames: int
    bytes: int
    kinds: Mapping[str, int]
    open: int
    waiting: int
    lost: int
    failed: int
    last_at: float
    delays: Sequence[float]
    cpu_s: float


class Sinks:
    """All processes together. Made by open_sinks()."""

    def __init__(self, workers: Sequence[LineWorker]) -> None:
        self._workers = workers
        self._numbers = 0

    @property
    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers]

    async def connect(
        self,
        port: int,
        visits: Visit | Iterable[Visit],
        count: int,
        *,
        at_once: int = AT_ONCE,
        deaf: bool = False,
        timeout_s: float = 120.0,
    ) -> float:
        """Opens `count` connections more, the visits in turn; how long that took, in s.

        `at_once` bounds those of a process that are being opened, 0 does not: a storm. `deaf` ones read
        nothing after the handshake. Raises SinkFailed if one is refused or lost, TimeoutError.
        """
        before = await self.counts()
        began = time.monotonic()
        await self.begin(port, visits, count, at_once=at_once, deaf=deaf)
        wanted = before.open + count

        async def check() -> bool:
            now = await self.counts()
            if now.failed or now.lost:
                raise SinkFailed(f"{now.failed} connections refused, {now.lost} lost")
            return now.open >= wanted

        await until_answered(check, timeout_s=timeout_s)
        return time.monotonic() - began

    async def begin(
        self,
        port: int,
        visits: Visit | Iterable[Visit],
        count: int,
        *,
        at_once: int = AT_ONCE,
        deaf: bool = False,
    ) -> None:
        """As `connect`, without waiting; `counts` tells how far it is."""
        each = cycle([visits]) if isinstance(visits, Visit) else cycle(visits)
        rows = [list(self._row(port, visit)) for visit in islice(each, count)]
        width = len(self._workers)
        async with asyncio.TaskGroup() as tasks:
            for number, worker in enumerate(self._workers):
                plan = {"port": port, "at_once": at_once, "deaf": deaf, "visits": rows[number::width]}
                tasks.create_task(worker.ask("connect", **plan))

    def _row(self, port: int, visit: Visit) -> Iterator[str]:
        self._numbers += 1
        yield f"127.0.0.{2 + self._numbers % ADDRESSES}"
        lines = [
            f"GET {visit.target} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            "Sec-WebSocket-Version: 13",
            *([f"Sec-WebSocket-Protocol: {visit.subprotocol}"] if visit.subprotocol else []),
            *(f"{name}: {value}" for name, value in visit.headers.items()),
        ]
        yield "\r\n".join((*lines, "", ""))
        yield b"".join(client_frame(message) for message in visit.say).decode("latin-1")

    async def say(self, messages: Iterable[bytes]) -> None:
        """Sends them on every open connection."""
        frames = b"".join(client_frame(message) for message in messages).decode("latin-1")
        await self._ask_all("say", say=frames)

    async def drop(self) -> None:
        """Ends all connections without a word, as a cut link does."""
        await self._ask_all("drop")

    async def counts(self) -> Counts:
        answers = await self._ask_all("counts")
        kinds: Counter[str] = Counter()
        for answer in answers:
            kinds.update(answer["kinds"])
        total = {
            name: sum(answer[name] for answer in answers)
            for name in ("frames", "bytes", "open", "waiting", "lost", "failed", "cpu_s")
        }
        last_at = max(answer["last_at"] for answer in answers)
        delays = [delay for answer in answers for delay in answer["delays"]]
        return Counts(**total, kinds=kinds, last_at=last_at, delays=delays)

    async def wait_frames(self, frames: int, *, kind: str | None = None, timeout_s: float = 30.0) -> Counts:
        """Until so many data frames in all have come, or of one kind. Raises TimeoutError."""

        async def check() -> Counts | None:
            now = await self.counts()
            return now if (now.kinds.get(kind, 0) if kind else now.frames) >= frames else None

        return await until_answered(check, timeout_s=timeout_s)

    async def _ask_all(self, do: str, **arguments: Any) -> list[dict[str, Any]]:
        return await asyncio.gather(*(worker.ask(do, **arguments) for worker in self._workers))


@asynccontextmanager
async def open_sinks(processes: int = 1) -> AsyncIterator[Sinks]:
    """`processes` sinks, which end with the block."""
    async with line_workers("load.sink_worker", processes) as workers:
        yield Sinks(workers)
