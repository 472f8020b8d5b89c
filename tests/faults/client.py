"""A client that never gives up: it reconnects, resumes, checks all it hears and how old its copies get."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from protocol.principal import View
from tests.faults.shop import PULSE_KEY, Pulse
from tests.support.checker import CheckedCopies

__all__ = ["Follower", "Lapse"]

_OPEN_S: Final = 2.0
_LOST: Final = (OSError, TimeoutError, ConnectionClosed, InvalidHandshake, InvalidMessage)
# A hang-over of less than this is a message on its way.
_TOLERANCE_S: Final = 0.25


class Lapse(NamedTuple):
    """A copy that was trusted while it was too old."""

    topic: str
    pulse: Pulse
    trusted_from: float
    seconds: float


class Follower(CheckedCopies):
    """Follows topics on the replica that `url` returns whenever it connects.

    `heartbeat_s` as in the settings: a connection that is silent for twice that long is given up. Raises
    AssertionError out of run() for whatever the contract rules out.
    """

    def __init__(
        self,
        url: Callable[[], str],
        topics: Sequence[str],
        *,
        view: View = View.EXACT,
        heartbeat_s: float = 0.5,
    ) -> None:
        super().__init__()
        self.view = view
        self.topics = list(topics)
        self.stale = False
        self.connected = False
        self.connections = 0
        self.resumed = 0
        self.snapshots = 0
        self.doubts: list[float] = []  # the moments at which something was found to be wrong
        self._url = url
        self._silence_s = 2 * heartbeat_s + 0.5
        self._client: ClientConnection | None = None
        self._asking: set[asyncio.Future[None]] = set()
        self._trusted_since: dict[str, float] = {}
        self._trusted: dict[str, list[tuple[float, float]]] = {topic: [] for topic in topics}
        self._pulses: dict[str, list[tuple[float, int]]] = {topic: [] for topic in topics}

    def __repr__(self) -> str:
        missing = [topic for topic in self.topics if not self.is_complete(topic)]
        return (
            f"Follower({self.view.value}, {self.connected=}, {self.stale=}, {self.connections=}, {missing=})"
        )

    @property
    def content(self) -> bool:
        """Connected, with complete copies that it may trust."""
        return self.connected and all(map(self.content_with, self.topics))

    def content_with(self, topic: str) -> bool:
        held = topic in self.topics and self.is_complete(topic)
        return held and self.connected and not self.stale

    async def run(self) -> None:
        """Until cancelled."""
        failures = 0
        while True:
            try:
                async with connect(
                    self._url(),
                    proxy=None,
                    max_size=None,
                    compression=None,
                    open_timeout=_OPEN_S,
                    close_timeout=0.1,
                    ping_interval=None,
                ) as client:
                    failures = 0
                    await self._converse(client)
            except _LOST:
                self._lost()
            failures += 1
            await asyncio.sleep(min(1.0, 0.05 * 2**failures) * random.random())

    async def ask_for(self, topic: str) -> None:
        """Subscribes to one more topic, or to one that is held anew."""
        if topic not in self.topics:
            self.topics.append(topic)
            self._trusted[topic], self._pulses[topic] = [], []
        await self._say(partial(self._subscribe, topics=[topic]))

    async def leave(self, topic: str) -> None:
        """Unsubscribes. What is sent for the topic after the answer is an error of the server."""
        if topic in self.topics:
            self.topics.remove(topic)
            self._note(topic)
            request = orjson.dumps({"type": "unsubscribe", "topics": [topic]}).decode()
            await self._say(lambda client: client.send(request))

    def drop(self) -> None:
        """The connection is gone at once, without a word; run() makes another."""
        if self._client is not None:
            self._client.transport.abort()

    async def _say(self, say: Callable[[ClientConnection], Awaitable[None]]) -> None:
        """If there is no connection, the next one begins with everything."""
        if self._client is not None:
            with suppress(ConnectionClosed):
                await say(self._client)

    async def _converse(self, client: ClientConnection) -> None:
        await self._subscribe(client, self.topics)
        self._client = client
        self.reconnected()
        self.connections += 1
        self.connected, self.stale = True, False
        while True:
            async with asyncio.timeout(self._silence_s):
                data = await client.recv()
            await self._hear(orjson.loads(data), client)

    async def _subscribe(self, client: ClientConnection, topics: Sequence[str]) -> None:
        self.held.update(dict.fromkeys(topics, self.view))
        message: dict[str, Any] = {"type": "subscribe", "topics": list(topics), "view": self.view.value}
        complete = {t: self.position(t) for t in topics if self.view is View.EXACT and self.is_complete(t)}
        self.asked |= complete
        if complete:
            message["resume"] = {t: {"epoch": p.epoch, "seq": p.seq} for t, p in complete.items()}
        await client.send(orjson.dumps(message).decode())

    async def _hear(self, message: dict[str, Any], client: ClientConnection) -> None:
        match message["type"]:
            case "stale":
                self.stale = True
                self._doubt()
            case "fresh":
                self.stale = False
            case "heartbeat":
                assert message["stale"] is self.stale, f"a heartbeat says otherwise: {message}"
            case "unsubscribed" if message["topic"] not in self.topics:
                self._forget_topic(message["topic"])
            case "error":
                assert message["code"] == "unavailable", message
                again = asyncio.ensure_future(self._ask_again(client, message))
                self._asking.add(again)
                again.add_done_callback(self._asking.discard)
        self.receive(message)
        self.messages.clear()  # a long run has many
        self.resumed += message["type"] == "resumed"
        self.snapshots += message["type"] == "snapshot" and message["last"]
        self._note(message.get("topic"))

    async def _ask_again(self, client: ClientConnection, refusal: dict[str, Any]) -> None:
        await asyncio.sleep(min(refusal["retry_after_ms"], 500) / 1000)
        if refusal["topic"] in self.topics and client is self._client:
            await self._say(partial(self._subscribe, topics=[refusal["topic"]]))

    def _note(self, topic: str | None) -> None:
        """Keeps the times at which the topic, or every one, was trusted, and at which its pulses came."""
        now = time.monotonic()
        for name in (topic,) if topic in self._trusted else self.topics:
            trusted = self.content_with(name)
            since = self._trusted_since.get(name)
            if trusted and since is None:
                self._trusted_since[name] = now
            elif not trusted and since is not None:
                self._trusted[name].append((self._trusted_since.pop(name), now))
            if name in self.copies and self.is_complete(name):
                pulse = self.copies[name].items.get(PULSE_KEY)
                pulses = self._pulses[name]
                if pulse is not None and (not pulses or pulses[-1][1] != pulse["on_hand"]):
                    pulses.append((now, pulse["on_hand"]))

    def _lost(self) -> None:
        self.connected, self._client = False, None
        for topic in self.held.keys() - set(self.topics):
            self._forget_topic(topic)
        self._doubt()
        self._note(None)

    def _doubt(self) -> None:
        self.doubts.append(time.monotonic())

    def _forget_topic(self, topic: str) -> None:
        del self.held[topic]
        self.left(topic)

    def forget(self) -> None:
        """What was seen so far is not judged: the database has gone back."""
        for name in self._trusted:
            self._trusted[name].clear()
            self._pulses[name].clear()
            if name in self._trusted_since:
                self._trusted_since[name] = time.monotonic()

    def lapses(self, pulses: Sequence[Pulse], allowed_s: float) -> list[Lapse]:
        """Where a copy was trusted while a change that was committed `allowed_s` before was missing in it."""
        now = time.monotonic()
        found = []
        for topic, seen in self._pulses.items():
            if not seen:
                continue
            intervals = list(self._trusted[topic])
            if topic in self._trusted_since:
                intervals.append((self._trusted_since[topic], now))
            at = 0
            for pulse in pulses:
                while at < len(seen) and seen[at][1] < pulse.number:
                    at += 1
                arrived = seen[at][0] if at < len(seen) else now
                late_from = pulse.committed_at + allowed_s
                for begin, end in intervals:
                    seconds = min(end, arrived) - max(begin, late_from)
                    if seconds > _TOLERANCE_S:
                        found.append(Lapse(topic, pulse, begin, seconds))
        return found
