"""Who may connect to this process: how many, how many from one address, and how fast from one. No I/O."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from gateway.addresses import limit_key
from gateway.limits import TokenBucket

__all__ = ["FULL_RETRY_S", "REASONS", "ConnectionLimits", "Refusal"]

# When to come back where a place has to become free first, in s.
FULL_RETRY_S: Final = 5.0
REASONS: Final = ("connections", "address", "handshake_rate")
# Refusals in words cost as much as a handshake: so many a second for one address, and for all of them.
WORDS_PER_ADDRESS_PER_S: Final = 2.0
WORDS_PER_S: Final = 50.0


class Refusal(NamedTuple):
    """Why somebody is refused: `reason` is a label of gateway_connections_refused.

    `told`: it is worth the words, a WebSocket's close code, say, that browsers can read. Else the cheapest
    answer there is.
    """

    reason: str
    retry_after_s: float
    told: bool = True


class _Visitor:
    """What is remembered of an address. `barred_until`: other replicas have seen too much of it."""

    __slots__ = ("barred_until", "handshakes", "words")

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self.handshakes = TokenBucket(rate, clock=clock)
        self.words: TokenBucket | None = None
        self.barred_until = 0.0

    def is_forgettable(self, now: float) -> bool:
        words = self.words is None or self.words.is_full()
        return words and self.barred_until <= now and self.handshakes.is_full()


class ConnectionLimits:
    """One per process. Addresses are counted as gateway.addresses.limit_key has it.

    To refuse takes a look into a table and a few float operations: a flood is refused as fast as the system
    accepts. Memory is bounded: an address without connections is forgotten once its bucket is full again, and
    beyond `max_addresses` the one seen longest ago is forgotten, which at worst forgives it a burst.
    """

    def __init__(
        self,
        *,
        max_connections: int = 0,
        per_address: int = 0,
        handshakes_per_address_per_s: float = 0,
        max_addresses: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """0 stands for no limit."""
        self._max_connections = max_connections
        self._per_address = per_address
        self._rate = handshakes_per_address_per_s
        self._max_addresses = max_addresses
        self._clock = clock
        self._connections = 0
        self._by_address: dict[str, int] = {}
        self._visitors: OrderedDict[str, _Visitor] = OrderedDict()
        self._words = TokenBucket(WORDS_PER_S, clock=clock)
        self.refused = dict.fromkeys(REASONS, 0)

    def admit(self, address: str) -> Refusal | None:
        """Counts a connection in and returns None; else says why not, and `leave` must not be called."""
        key = limit_key(address)
        wait_s = self._handshake_wait(key) if self._rate > 0 else 0.0
        if wait_s > 0:
            return self._refuse(key, "handshake_rate", wait_s)
        if self._max_connections and self._connections >= self._max_connections:
            return self._refuse(key, "connections", FULL_RETRY_S)
        if self._per_address and self._by_address.get(key, 0) >= self._per_address:
            return self._refuse(key, "address", FULL_RETRY_S)
        self._connections += 1
        self._by_address[key] = self._by_address.get(key, 0) + 1
        return None

    def leave(self, address: str) -> None:
        """A connection that was admitted is gone."""
        key = limit_key(address)
        self._connections -= 1
        left = self._by_address[key] - 1
        if left:
            self._by_address[key] = left
        else:
            del self._by_address[key]

    def bar(self, address: str, seconds: float) -> Refusal:
        """All replicas together have seen too much of this address: it is refused for so long."""
        key = limit_key(address)
        visitor = self._visitor(key)
        visitor.barred_until = max(visitor.barred_until, self._clock() + seconds)
        return self._refuse(key, "handshake_rate", seconds)

    def statistics(self) -> dict[str, int]:
        """Open connections, and how many addresses are remembered."""
        return {
            "connections": self._connections,
            "addresses": len(self._by_address),
            "remembered": len(self._visitors),
        }

    def _refuse(self, key: str, reason: str, retry_after_s: float) -> Refusal:
        self.refused[reason] += 1
        visitor = self._visitor(key)
        if visitor.words is None:
            visitor.words = TokenBucket(WORDS_PER_ADDRESS_PER_S, clock=self._clock)
        told = visitor.words.take() == 0 and self._words.take() == 0
        return Refusal(reason, retry_after_s, told)

    def _handshake_wait(self, key: str) -> float:
        visitor = self._visitor(key)
        barred_s = visitor.barred_until - self._clock() if visitor.barred_until else 0.0
        return barred_s if barred_s > 0 else visitor.handshakes.take()

    def _visitor(self, key: str) -> _Visitor:
        visitor = self._visitors.get(key)
        if visitor is None:
            self._forget()
            visitor = self._visitors[key] = _Visitor(self._rate, self._clock)
        else:
            self._visitors.move_to_end(key)
        return visitor

    def _forget(self) -> None:
        # Two for each newcomer, so that the table shrinks while strangers keep coming.
        now = self._clock()
        for _ in range(2):
            oldest = next(iter(self._visitors), None)
            if oldest is None:
                return
            if self._visitors[oldest].is_forgettable(now) or len(self._visitors) >= self._max_addresses:
                del self._visitors[oldest]
