"""Thousands of clients that come back: light ones, in a process of their own, each copy checked all the time.

`crowded()` starts the process and talks to it in lines of JSON. Each client obeys `reconnect` and close 1012,
backs off with full jitter when it is refused or cut off, and resumes every complete copy by (epoch, seq).
"""

import asyncio
import random
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from typing import Any, Final, cast

import orjson
import uvloop

from listeners.backoff import Backoff
from load.client import Client, ConnectionRefused, connect
from load.processes import raise_file_limit
from protocol.principal import View
from tests.support.checker import CheckedCopies

__all__ = ["Crowd", "Report", "crowded"]

# Those of the browser client, in s.
_BACKOFF: Final = (0.5, 30.0)
# At the start: connecting all at once would be a fault of its own.
_ARRIVING_PER_S: Final = 500
# So many product pages are left for others.
_EXCHANGED_PER_S: Final = 20
_LINE_BYTES: Final = 64 * 1024 * 1024
_ANSWER_S: Final = 60.0

Report = dict[str, Any]
# Frames of a broadcast are equal for everybody who gets them.
_decode = lru_cache(maxsize=4096)(orjson.loads)


class Member(CheckedCopies):
    """One client of the crowd."""

    def __init__(self, crowd: "Members", topics: Sequence[str]) -> None:
        super().__init__()
        self.topics = list(topics)
        self.connected = False
        self.stale = False
        self._crowd = crowd
        self._left: asyncio.Event = asyncio.Event()
        self._heard_at = 0.0
        self._number = 0  # of the connection that counts
        self._client: Client | None = None

    @property
    def content(self) -> bool:
        return self.connected and not self.stale and all(self.is_complete(topic) for topic in self.topics)

    async def run(self) -> None:
        """Until cancelled."""
        crowd = self._crowd
        backoff = Backoff(*_BACKOFF, random=crowd.chance.random)
        url = crowd.chance.choice(crowd.urls)
        while True:
            try:
                self._left.clear()
                self._number += 1
                client = self._client = await connect(url, partial(self._heard, self._number))
            except (ConnectionRefused, OSError, TimeoutError):
                crowd.count["refused"] += 1
            else:
                backoff.reset()
                crowd.connections.append(time.monotonic())
                self._subscribe(client)
                told = await self._stay(client)
                if told:  # the server has spread the crowd already
                    url = crowd.elsewhere(url)
                    continue
            await asyncio.sleep(backoff.next())
            url = crowd.elsewhere(url)

    async def _stay(self, client: Client) -> bool:
        """Until the connection ends. Whether the server has asked for it."""
        self.connected, self.stale, self._heard_at = True, False, time.monotonic()
        leave = asyncio.ensure_future(self._left.wait())
        try:
            while not client.closed.done() and not leave.done():
                await asyncio.wait(
                    (client.closed, leave), timeout=self._crowd.silence_s, return_when=asyncio.FIRST_COMPLETED
                )
                if time.monotonic() - self._heard_at > self._crowd.silence_s:
                    self._crowd.count["silence"] += 1
                    break
        finally:
            leave.cancel()
            self.connected = False
            self._number += 1
            client.close()
        told = leave.done() and not leave.cancelled()
        self._crowd.count["left as told" if told else f"closed {client.close_code or 1006}"] += 1
        return told or client.close_code == 1012

    def _subscribe(self, client: Client) -> None:
        complete = {topic: self.position(topic) for topic in self.topics if self.is_complete(topic)}
        self.held = dict.fromkeys(self.topics, View.EXACT)
        self.reconnected()
        message: dict[str, Any] = {"type": "subscribe", "topics": self.topics, "view": "exact"}
        if complete:
            message["resume"] = {topic: p._asdict() for topic, p in complete.items()}
            self._crowd.count["resumes asked"] += len(complete)
        client.send(message)

    def exchange(self) -> None:
        """Leaves a product's page for another one."""
        products = [topic for topic in self.topics if topic.startswith("product:")]
        if not self.content or not products or self._client is None:
            return
        old, new = products[0], self._crowd.chance.choice(self._crowd.products)
        if new in self.held:  # also if it was left and that is not answered yet
            return
        self.topics = [*(topic for topic in self.topics if topic != old), new]
        self.held[new] = View.EXACT
        self._client.send({"type": "unsubscribe", "topics": [old]})
        self._client.send({"type": "subscribe", "topics": [new], "view": "exact"})

    def _heard(self, number: int, payload: bytes, at: float) -> None:
        if number != self._number:
            return
        self._heard_at = at
        message = _decode(payload)
        try:
            self._hear(message)
        except (AssertionError, KeyError) as error:
            self._crowd.wrong.append(f"{type(error).__name__} {error}: {payload[:200].decode()}")

    def _hear(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        self._crowd.count[kind] += 1
        if kind == "reconnect":
            loop = asyncio.get_running_loop()
            loop.call_later(message["after_ms"] / 1000, self._leave, self._number)
            self._crowd.told_ms.append(message["after_ms"])
        elif kind in ("stale", "fresh"):
            self.stale = kind == "stale"
        elif kind == "unsubscribed":
            del self.held[message["topic"]]
            self.left(message["topic"])
        elif kind == "error":
            raise AssertionError(message)
        self.receive(message)
        self.messages.clear()

    def _leave(self, number: int) -> None:
        if number == self._number:
            self._left.set()


class Members:
    """The crowd, in its own process."""

    def __init__(
        self, urls: Sequence[str], topics: Sequence[Sequence[str]], silence_s: float, seed: int
    ) -> None:
        self.urls = list(urls)
        self.chance = random.Random(seed)
        self.silence_s = silence_s
        self.count: Counter[str] = Counter()
        self.connections: list[float] = []
        self.told_ms: list[int] = []
        self.wrong: list[str] = []
        self.members = [Member(self, held) for held in topics]
        self.products = sorted({t for held in topics for t in held if t.startswith("product:")})

    def elsewhere(self, url: str) -> str:
        return self.chance.choice([other for other in self.urls if other != url] or [url])

    async def everybody(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for member in self.members:
                tasks.create_task(member.run())
                await asyncio.sleep(1 / _ARRIVING_PER_S)
            while True:
                self.chance.choice(self.members).exchange()
                await asyncio.sleep(1 / _EXCHANGED_PER_S)

    def answer(self, question: dict[str, Any]) -> Report:
        expected = question.get("expected")
        report: Report = {
            "count": dict(self.count),
            "connections": self.connections,
            "told_ms": self.told_ms,
            "connected": sum(member.connected for member in self.members),
            "content": sum(member.content for member in self.members),
            "held": sum(len(member.topics) for member in self.members),
            "checked": sum(member.checked for member in self.members),
            "wrong": self.wrong[:10],
        }
        if expected is not None:
            report["equal"] = sum(m.content and self._equals(m, expected) for m in self.members)
        return report

    def _equals(self, member: Member, expected: Mapping[str, Any]) -> bool:
        return all(member.equals(topic, expected[topic]) for topic in member.topics)


class Crowd:
    """The test's side of it."""

    def __init__(self, process: Process, size: int) -> None:
        self.size = size
        self._process = process
        self._asking = asyncio.Lock()

    async def report(self, expected: Mapping[str, Any] | None = None) -> Report:
        """What the crowd has seen so far; with what the database says: how many have all their copies equal.

        `connections` are the moments of all of them, of the monotonic clock in s. Raises AssertionError for
        whatever the contract rules out and a client has heard.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._asking, asyncio.timeout(_ANSWER_S):
            self._process.stdin.write(orjson.dumps({"expected": expected}) + b"\n")
            await self._process.stdin.drain()
            report = cast("Report", orjson.loads(await self._process.stdout.readline()))
        assert report["wrong"] == []
        return report


@asynccontextmanager
async def crowded(
    urls: Sequence[str], topics: Sequence[Sequence[str]], *, silence_s: float, seed: int = 0
) -> AsyncIterator[Crowd]:
    """A client for each entry of `topics`, on any of `urls`. `silence_s`: twice the server's heartbeat_s."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.faults.crowd", stdin=PIPE, stdout=PIPE, limit=_LINE_BYTES
    )
    try:
        assert process.stdin is not None
        settings = {"urls": urls, "topics": topics, "silence_s": silence_s, "seed": seed}
        process.stdin.write(orjson.dumps(settings) + b"\n")
        yield Crowd(process, len(topics))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _run() -> None:
    """Answers the lines of standard input until it ends; the first one says who the members are."""
    reader = asyncio.StreamReader(limit=_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    members = Members(**orjson.loads(await reader.readline()))
    everybody = asyncio.create_task(members.everybody())
    while line := await reader.readline():
        sys.stdout.buffer.write(orjson.dumps(members.answer(orjson.loads(line))) + b"\n")
        sys.stdout.buffer.flush()
        if everybody.done():
            everybody.result()
    everybody.cancel()


def main() -> None:
    raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run())


if __name__ == "__main__":
    main()
