import asyncio
from collections import deque
from typing import Final

from listeners.bus import BusListener, BusStatistics, Subscriptions
from protocol.envelope import Beat, Envelope, NewGeneration

__all__ = ["MemoryBroker", "MemoryBus"]

_BEACON: Final = "beacon"
_MAX_WAITING: Final = 10_000


class MemoryBroker:
    """The server's part: it hands what is published to the buses that have subscribed to it."""

    def __init__(self) -> None:
        self.up = True
        self.buses: list[MemoryBus] = []

    def publish(self, envelope: Envelope) -> None:
        channel = _BEACON if isinstance(envelope, Beat | NewGeneration) else envelope.topic
        if self.up:
            for bus in self.buses:
                bus.offer(channel, envelope)

    def cut(self) -> None:
        """All links are lost, and can not be made again before `mend`."""
        self.up = False
        for bus in self.buses:
            bus.wake()

    def mend(self) -> None:
        self.up = True
        for bus in self.buses:
            bus.wake()


class MemoryBus:
    """The bus inside one process, for tests without Redis. As there, a subscriber too slow loses its link."""

    def __init__(self, broker: MemoryBroker | None = None) -> None:
        self.broker = broker or MemoryBroker()
        self._subscriptions = Subscriptions([_BEACON])
        self._subscribed: set[str] = set()
        self._waiting: deque[Envelope] = deque()
        self._wake = asyncio.Event()
        self._overrun = self._connected = False
        self._messages = self._losses = 0

    async def run(self, listener: BusListener) -> None:
        """See Bus.run."""
        self.broker.buses.append(self)
        try:
            while True:
                if not self.broker.up or self._overrun:
                    self._lose(listener)
                if self.broker.up:
                    self._turn(listener)
                await self._wake.wait()
                self._wake.clear()
        finally:
            self.broker.buses.remove(self)
            self._drop()

    def _turn(self, listener: BusListener) -> None:
        if not self._connected:
            self._subscriptions.begin_link()
        subscribe, unsubscribe = self._subscriptions.take()
        for channel in unsubscribe:
            self._subscribed.discard(channel)
            self._subscriptions.confirm(channel, subscribed=False)
        for channel in subscribe:
            self._subscribed.add(channel)
            self._subscriptions.confirm(channel, subscribed=True)
        if not self._connected:
            self._connected = True
            listener.restored()
        while self._waiting:
            self._messages += 1
            listener.message(self._waiting.popleft())

    def _lose(self, listener: BusListener) -> None:
        self._drop()
        if self._connected:
            self._connected = False
            self._losses += 1
            listener.lost()

    def _drop(self) -> None:
        self._overrun = False
        self._waiting.clear()
        self._subscribed.clear()
        self._subscriptions.end_link()

    def offer(self, channel: str, envelope: Envelope) -> None:
        """The broker's way in."""
        if channel in self._subscribed:
            self._overrun = self._overrun or len(self._waiting) >= _MAX_WAITING
            if not self._overrun:
                self._waiting.append(envelope)
            self.wake()

    def wake(self) -> None:
        self._wake.set()

    def subscribe_nowait(self, topic: str) -> None:
        self._subscriptions.want(topic)
        self.wake()

    def unsubscribe_nowait(self, topic: str) -> None:
        self._subscriptions.unwant(topic)
        self.wake()

    def is_subscribed(self, topic: str) -> bool:
        return self._subscriptions.is_confirmed(topic)

    async def wait_subscribed(self, topic: str, timeout_s: float) -> None:
        await self._subscriptions.wait_confirmed(topic, timeout_s)

    def statistics(self) -> BusStatistics:
        return BusStatistics(
            connected=self._connected,
            wanted=len(self._subscriptions.wanted),
            confirmed=len(self._subscriptions.confirmed),
            messages=self._messages,
            malformed=0,
            losses=self._losses,
        )
