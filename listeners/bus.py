"""The bus: what the relay publishes reaches every replica that has subscribed to the topic, at most once.

`Subscriptions` holds the semantics that all buses share; it does no I/O.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from listeners.errors import BusUnavailable
from protocol.envelope import Envelope

__all__ = ["Bus", "BusListener", "BusStatistics", "Subscriptions", "UnexpectedConfirmation"]


class BusListener(Protocol):
    """Who hears the bus. Plain functions, called on the event loop, that never block."""

    def message(self, envelope: Envelope) -> None: ...

    def lost(self) -> None:
        """Messages may be missing from now on, until `restored`."""

    def restored(self) -> None:
        """Every channel that was wanted is confirmed (again): compare positions now."""


@dataclass(frozen=True, slots=True)
class BusStatistics:
    connected: bool  # between `restored` and `lost`
    wanted: int  # channels, those of the bus itself included
    confirmed: int
    messages: int
    malformed: int  # messages that no version of ours has sent; they are dropped
    losses: int


class Bus(Protocol):
    async def run(self, listener: BusListener) -> None:
        """Serve until cancelled. Reconnects with backoff; `restored` and `lost` alternate, `restored` first.

        Raises Refused when the server says no, and whatever the listener raises.
        """

    def subscribe_nowait(self, topic: str) -> None:
        """Want the topic's messages from some moment on. Harmless if they are wanted already."""

    def unsubscribe_nowait(self, topic: str) -> None:
        """Want them no more. Of several calls within one turn of the loop only the outcome matters."""

    def is_subscribed(self, topic: str) -> bool:
        """Whether wait_subscribed would return at once."""

    async def wait_subscribed(self, topic: str, timeout_s: float) -> None:
        """Until the server has confirmed: whatever is published from now on arrives, or `lost` is called.

        Raises BusUnavailable at the timeout, or when the topic is not wanted (any more).
        """

    def statistics(self) -> BusStatistics: ...


class UnexpectedConfirmation(Exception):
    """The server confirms what was not asked for on this link: there was another link in between."""


class Subscriptions:
    """The channels that are wanted, against what the server was asked and has confirmed on the present link.

    Servers confirm in the order they were asked, one channel at a time.
    """

    def __init__(self, wanted: Iterable[str] = ()) -> None:
        self.wanted = set(wanted)
        self.confirmed: set[str] = set()
        self._asked: set[str] = set()  # where the last thing asked for was to subscribe
        self._unanswered: defaultdict[str, deque[bool]] = defaultdict(deque)
        self._changed: dict[str, None] = {}  # a set that keeps the order
        self._awaited: set[str] = set()
        self._waiters: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)

    def want(self, channel: str) -> None:
        self.wanted.add(channel)
        self._changed[channel] = None

    def unwant(self, channel: str) -> None:
        self.wanted.discard(channel)
        self._awaited.discard(channel)
        self._changed[channel] = None
        for waiter in self._waiters.pop(channel, ()):
            if not waiter.done():
                waiter.set_exception(BusUnavailable(f"{channel} was unsubscribed"))

    def begin_link(self) -> None:
        """A new link: nothing is asked, everything wanted is to be asked for."""
        self.end_link()
        self._changed = dict.fromkeys(sorted(self.wanted))
        self._awaited = set(self.wanted)

    def end_link(self) -> None:
        self.confirmed.clear()
        self._asked.clear()
        self._unanswered.clear()

    def take(self) -> tuple[list[str], list[str]]:
        """What to ask for now: channels to subscribe to, channels to unsubscribe from."""
        subscribe: list[str] = []
        unsubscribe: list[str] = []
        for channel in self._changed:
            wanted = channel in self.wanted
            if wanted == (channel in self._asked):
                continue
            (subscribe if wanted else unsubscribe).append(channel)
            self._unanswered[channel].append(wanted)
            if wanted:
                self._asked.add(channel)
            else:
                self._asked.discard(channel)
                self.confirmed.discard(channel)
        self._changed.clear()
        return subscribe, unsubscribe

    def confirm(self, channel: str, *, subscribed: bool) -> None:
        """The server's answer. Raises UnexpectedConfirmation."""
        unanswered = self._unanswered.get(channel)
        if not unanswered or unanswered.popleft() is not subscribed:
            raise UnexpectedConfirmation(f"{'' if subscribed else 'un'}subscribed {channel}")
        if unanswered:
            return  # asked otherwise since
        del self._unanswered[channel]
        if subscribed:
            self.confirmed.add(channel)
            self._awaited.discard(channel)
            for waiter in self._waiters.pop(channel, ()):
                if not waiter.done():
                    waiter.set_result(None)

    @property
    def complete(self) -> bool:
        """Whether what was wanted when the link began, and still is, has been confirmed on it."""
        return not self._awaited

    def is_confirmed(self, channel: str) -> bool:
        return channel in self.confirmed and channel in self.wanted

    async def wait_confirmed(self, channel: str, timeout_s: float) -> None:
        """Raises BusUnavailable."""
        if self.is_confirmed(channel):
            return
        if channel not in self.wanted:
            raise BusUnavailable(f"{channel} is not subscribed to")
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[channel].add(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            raise BusUnavailable(f"the bus did not confirm {channel} within {timeout_s:g} s") from None
        finally:
            if waiters := self._waiters.get(channel):
                waiters.discard(waiter)
                if not waiters:
                    del self._waiters[channel]
