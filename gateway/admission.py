"""Who may connect to this process: how many, how many from one address, and how fast from one. No I/O."""

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from gateway.addresses import Networks, network_of
from gateway.limits import Buckets, TokenBucket

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


class _Visitor(TokenBucket):
    """What is remembered of an address: the handshakes it may make, and the words it may still hear."""

    __slots__ = ("words",)

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        super().__init__(rate, clock=clock)
        self.words: TokenBucket | None = None

    def is_full(self) -> bool:
        return super().is_full() and (self.words is None or self.words.is_full())


class ConnectionLimits:
    """One per process. Addresses are counted as gateway.addresses.network_of has it.

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
        spared: Networks = Networks(()),  # noqa: B008 - it is never changed
        max_addresses: int = 100_000,
        shared: Callable[[str], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """0 stands for no limit. `spared` addresses have none of their own. `shared` takes a handshake of a
        network from what all processes together allow it; the seconds to wait (gateway.rates)."""
        self._max_connections = max_connections
        self._per_address = per_address
        self._rate = handshakes_per_address_per_s
        self._spared = spared
        self._shared = shared
        self._clock = clock
        self._connections = 0
        self._by_address: dict[str, int] = {}
        self._visitors: Buckets[_Visitor] = Buckets(max_addresses)
        self._words = TokenBucket(WORDS_PER_S, clock=clock)
        self.refused = dict.fromkeys(REASONS, 0)

    def admit(self, address: str) -> Refusal | None:
        """Counts a connection in and returns None; else says why not, and `leave` must not be called."""
        key = network_of(address)
        spared = address in self._spared
        wait_s = 0.0 if spared else self._handshake_wait(key)
        if wait_s > 0:
            return self._refuse(key, "handshake_rate", wait_s)
        if self._max_connections and self._connections >= self._max_connections:
            return self._refuse(key, "connections", FULL_RETRY_S)
        if not spared and self._per_address and self._by_address.get(key, 0) >= self._per_address:
            return self._refuse(key, "address", FULL_RETRY_S)
        self._connections += 1
        self._by_address[key] = self._by_address.get(key, 0) + 1
        return None

    def leave(self, address: str) -> None:
        """A connection that was admitted is gone."""
        key = network_of(address)
        self._connections -= 1
        left = self._by_address[key] - 1
        if left:
            self._by_address[key] = left
        else:
            del self._by_address[key]

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
        wait_s = self._visitor(key).take() if self._rate > 0 else 0.0
        return self._shared(key) if wait_s <= 0 and self._shared is not None else wait_s

    def _visitor(self, key: str) -> _Visitor:
        return self._visitors.use(key, lambda: _Visitor(self._rate, self._clock))
