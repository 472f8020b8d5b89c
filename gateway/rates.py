"""How fast somebody may do something, wherever they are connected."""

import asyncio
import hashlib
import random
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

import structlog

from gateway.addresses import network_of
from gateway.limits import BURST_S, Buckets, TokenBucket
from gateway.setting_groups import LimitSettings
from protocol.errors import ErrorCode, ProtocolError
from protocol.principal import Principal

__all__ = [
    "SETTLE_S",
    "TIMEOUT_S",
    "Done",
    "RateKind",
    "RateLimit",
    "Rates",
    "SharedRates",
    "holder",
    "rate_limited",
    "shared_limits",
]

log = structlog.get_logger(__name__)

# Of a reply of Redis, in s: nobody waits longer for it, and beyond it this process decides alone.
TIMEOUT_S: Final = 0.25
# What has been used is gathered for so long before Redis is told, in s: a question takes a process 0.1 ms, as
# much as half a handshake, and strangers must not make it ask once a turn.
SETTLE_S: Final = 0.02
# How long it does so before Redis is asked once more, in s.
RETRY_S: Final = 1.0
# Questions on their way to Redis, and holders of limits that are remembered.
MOST_PENDING: Final = 10_000
MOST_HELD: Final = 100_000
# Seconds worth of handshakes that an address may make at once with all processes together: behind it may be a
# whole company, and all its clients come at once after a restart. Of one process, and of all else: BURST_S.
HANDSHAKES_BURST_S: Final = 100

# Is told the seconds to wait; 0: it may go on, and what it costs is taken.
Done = Callable[[float], None]


class RateKind(StrEnum):
    """What is limited; labels of metrics, and parts of keys in Redis."""

    HANDSHAKES = "handshakes"
    AUTH = "auth"  # tokens that are checked
    TICKETS = "tickets"
    HTTP = "http"  # requests
    ROWS = "rows"  # of snapshots


_Key = tuple[RateKind, str]


class RateLimit(NamedTuple):
    """`per_s` on average, and `burst` at once."""

    per_s: float
    burst: float


class SharedRates(Protocol):
    """What all replicas have used together (listeners.rate_store)."""

    def take_nowait(
        self, kind: str, who: str, *, cost: float, per_s: float, burst: float, owed: bool = False
    ) -> asyncio.Future[float]:
        """The seconds to wait, or ProtocolError; `owed`: it is taken whatever is left."""
        ...


class _Held(TokenBucket):
    """What one holder has left of a limit in this process, and how long the other processes say there is
    nothing."""

    __slots__ = ("denied_until",)

    def __init__(self, limit: RateLimit, clock: Callable[[], float]) -> None:
        super().__init__(limit.per_s, limit.burst, clock=clock)
        self.denied_until = 0.0

    def take(self, amount: float = 1) -> float:
        wait_s = self.denied_until - self._clock()
        return wait_s if wait_s > 0 else super().take(amount)

    def owe(self, amount: float) -> None:
        denied_until, self.denied_until = self.denied_until, 0.0
        super().owe(amount)
        self.denied_until = denied_until

    def is_full(self) -> bool:
        return self.denied_until <= self._clock() and super().is_full()


class _Asked:
    __slots__ = ("at", "done", "held", "kind")

    def __init__(self, kind: RateKind, held: _Held, at: float, done: Done | None) -> None:
        self.kind = kind
        self.held = held
        self.at = at
        self.done = done  # None: nobody waits, it is owed


class Rates:
    """The rate limits of one process. Plain functions on the event loop; a limit of 0 asks nobody.

    Whoever takes something passes the limit of this process first, which refuses without a round trip: it has
    seen a part of what all processes together have. Then Redis is asked. While it is away, slow or refuses,
    the first word is the last one: a limit holds for each process then, and not for all of them together.
    """

    def __init__(
        self,
        limits: Mapping[RateKind, RateLimit],
        shared: SharedRates | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        retry_s: float = RETRY_S,
        settle_s: float = 0.0,
        most_held: int = MOST_HELD,
        most_pending: int = MOST_PENDING,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
    ) -> None:
        """`limits` by kind; one that is missing or 0 is none. `shared` None: there is one process alone.

        `settle_s`: for how long what is used is gathered before Redis is told; 0: for a turn of the loop.
        """
        self._limits = {kind: limit for kind, limit in limits.items() if limit.per_s > 0}
        self._shared = shared
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._settle_s = settle_s
        self._most_pending = most_pending
        self._clock = clock
        self._random = random
        self._held: Buckets[_Held] = Buckets(most_held)
        self._owed: defaultdict[_Key, float] = defaultdict(float)
        self._pending: dict[asyncio.Future[float], _Asked] = {}  # the oldest first
        self._timer: asyncio.TimerHandle | None = None
        self._looked_late = False
        self._retry_at: float | None = None  # None: Redis answers
        self._passed: dict[str, int] = dict.fromkeys(self._limits, 0)
        self._refused: dict[str, int] = dict.fromkeys(self._limits, 0)
        self._unshared: dict[str, int] = dict.fromkeys(self._limits, 0)

    @property
    def limited(self) -> Collection[RateKind]:
        return self._limits.keys()

    def take(self, kind: RateKind, who: str, done: Done, *, cost: float = 1) -> None:
        """Calls `done`, at once or within TIMEOUT_S. `who`: see holder()."""
        limit = self._limits.get(kind)
        if limit is None:
            done(0.0)
            return
        if not self._answers:
            done(self.take_nowait(kind, who, cost=cost))
            return
        key = (kind, _digest(who))
        held = self._hold(key, limit)
        wait_s = held.take(cost)
        if wait_s > 0:
            self._count(kind, wait_s, alone=False)
            done(wait_s)
        else:
            self._ask(key, limit, held, cost, done)

    def take_nowait(self, kind: RateKind, who: str, *, cost: float = 1) -> float:
        """As take(), by what is known here; Redis hears of it afterwards. So all processes together let pass
        what comes within one round trip more than the limit."""
        limit = self._limits.get(kind)
        if limit is None:
            return 0.0
        key = (kind, _digest(who))
        wait_s = self._hold(key, limit).take(cost)
        self._count(kind, wait_s, alone=not self._answers)
        if wait_s <= 0:
            self._owe(key, cost)
        return wait_s

    def take_handshake(self, network: str) -> float:
        """The seconds to wait for who wants to connect from there (network_of)."""
        return self.take_nowait(RateKind.HANDSHAKES, f"address {network}")

    def charge(self, kind: RateKind, who: str, cost: float) -> None:
        """Takes what has been used already; the next one waits for it (wait_s)."""
        limit = self._limits.get(kind)
        if limit is not None:
            key = (kind, _digest(who))
            self._hold(key, limit).owe(cost)
            self._owe(key, cost)

    def wait_s(self, kind: RateKind, who: str) -> float:
        """How long nothing is left, as far as is known here; 0: go on. Nothing is taken, nobody is asked."""
        if kind not in self._limits:
            return 0.0
        held = self._held.find((kind, _digest(who)))
        wait_s = 0.0 if held is None else held.take(0)
        self._count(kind, wait_s, alone=not self._answers)
        return wait_s

    def close(self) -> None:
        """Redis is asked nothing more; whoever waits for it is answered."""
        self._let_pass()
        self._shared = None
        self._owed.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def statistics(self) -> dict[str, float | Mapping[str, float]]:
        """In the names of gateway.metrics."""
        return {
            "gateway_rate_passed": self._passed,
            "gateway_rate_refused": self._refused,
            "gateway_rate_unshared": self._unshared,
            "gateway_rate_limits_alone": float(self._retry_at is not None),
        }

    # --- what all processes share

    @property
    def _answers(self) -> bool:
        return self._shared is not None and self._retry_at is None and len(self._pending) < self._most_pending

    def _hold(self, key: _Key, limit: RateLimit) -> _Held:
        return self._held.use(key, lambda: _Held(limit, self._clock))

    def _owe(self, key: _Key, cost: float) -> None:
        """Tells Redis, in one question for all that one holder uses meanwhile."""
        if self._shared is None:
            return
        if not self._owed:
            loop = asyncio.get_running_loop()
            if self._settle_s > 0:
                loop.call_later(self._settle_s, self._settle)
            else:
                loop.call_soon(self._settle)
        self._owed[key] += cost

    def _settle(self) -> None:
        owed, self._owed = self._owed, defaultdict(float)
        for key, cost in owed.items():
            if not self._answers:
                # What is used while Redis is away is not made up for; one question finds out if it is back.
                if self._retry_at is None or self._clock() < self._retry_at:
                    continue
                self._retry_at = self._next_try()
            limit = self._limits[key[0]]
            self._ask(key, limit, self._hold(key, limit), cost, None)

    def _ask(self, key: _Key, limit: RateLimit, held: _Held, cost: float, done: Done | None) -> None:
        assert self._shared is not None  # noqa: S101 - both callers have looked
        kind, who = key
        future = self._shared.take_nowait(
            kind, who, cost=cost, per_s=limit.per_s, burst=limit.burst, owed=done is None
        )
        self._pending[future] = _Asked(kind, held, self._clock(), done)
        future.add_done_callback(self._answered)
        if self._timer is None:
            self._looked_late = False
            self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._look)

    def _answered(self, future: asyncio.Future[float]) -> None:
        error = None if future.cancelled() else future.exception()
        asked = self._pending.pop(future, None)
        if asked is None:
            return  # it has been decided without
        if future.cancelled():
            self._decide(asked, None)
        elif error is not None:
            self._lost(error)
            self._decide(asked, None)
        else:
            self._found()
            self._decide(asked, future.result())

    def _decide(self, asked: _Asked, wait_s: float | None) -> None:
        """None: nobody knows, and this process has let it pass."""
        if wait_s:
            asked.held.denied_until = max(asked.held.denied_until, self._clock() + wait_s)
        if asked.done is None:
            return
        self._count(asked.kind, wait_s or 0.0, alone=wait_s is None)
        asked.done(wait_s or 0.0)

    def _count(self, kind: RateKind, wait_s: float, *, alone: bool) -> None:
        (self._refused if wait_s > 0 else self._passed)[kind] += 1
        self._unshared[kind] += alone and self._shared is not None

    def _look(self) -> None:
        """Whether somebody waits too long: then nobody waits any more."""
        self._timer = None
        if not self._pending:
            return
        late_s = self._clock() - next(iter(self._pending.values())).at - self._timeout_s
        loop = asyncio.get_running_loop()
        if late_s < 0:
            self._looked_late = False
            self._timer = loop.call_later(-late_s, self._look)
        elif late_s > self._timeout_s / 4 and not self._looked_late:
            # It is this process that is late: the answer may be here, and not read yet.
            self._looked_late = True
            self._timer = loop.call_later(self._timeout_s / 4, self._look)
        else:
            self._lost(TimeoutError())
            self._let_pass()

    def _let_pass(self) -> None:
        """Whoever waits for Redis: this process has."""
        pending, self._pending = self._pending, {}
        for future, asked in pending.items():
            future.cancel()
            self._decide(asked, None)

    def _lost(self, error: BaseException) -> None:
        if self._retry_at is None:
            unexpected = None if isinstance(error, ProtocolError | TimeoutError) else error
            log.warning("rate limits hold for this process alone", error=repr(error), exc_info=unexpected)
        self._retry_at = self._next_try()

    def _found(self) -> None:
        if self._retry_at is not None:
            log.info("rate limits are shared again")
        self._retry_at = None

    def _next_try(self) -> float:
        return self._clock() + self._retry_s * (0.5 + self._random())


def rate_limited(message: str, wait_s: float) -> ProtocolError:
    return ProtocolError(ErrorCode.RATE_LIMITED, message, retry_after_ms=int(wait_s * 1000) + 1)


def shared_limits(settings: LimitSettings) -> dict[RateKind, RateLimit]:
    """Those of one principal, or one address, of all processes together."""
    rates = {
        RateKind.HANDSHAKES: settings.handshakes_per_address_per_s,
        RateKind.AUTH: settings.auth_per_s,
        RateKind.TICKETS: settings.tickets_per_s,
        RateKind.HTTP: settings.http_requests_per_s,
        RateKind.ROWS: settings.snapshot_rows_per_s,
    }
    bursts_s = dict.fromkeys(rates, BURST_S) | {RateKind.HANDSHAKES: HANDSHAKES_BURST_S}
    return {kind: RateLimit(per_s, bursts_s[kind] * per_s) for kind, per_s in rates.items()}


def holder(principal: Principal | None, address: str) -> str:
    """Whose limits they are: the subject's of a token; else those of the network it comes from."""
    if principal is None or principal.expires_at is None:
        return f"address {network_of(address)}"
    return f"subject {principal.name}"


def _digest(who: str) -> str:
    """So that a name takes little room wherever it is kept, and tells nothing to who reads Redis."""
    return hashlib.blake2b(who.encode(), digest_size=16).hexdigest()
