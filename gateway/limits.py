import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

__all__ = ["BURST_S", "Buckets", "Loads", "MessageLimit", "TokenBucket"]

# Seconds worth of tokens a bucket holds: a client that subscribes to a page of topics at once is no abuser.
BURST_S: Final = 10
# Bursts that can be owed beyond an empty bucket: nobody is shut out for longer. Also in take.lua.
DEBTS: Final = 3


class TokenBucket:
    """At most `rate` per second on average, and `burst` at once. A rate of 0 stands for no limit.

    The cost of `take` is a few float operations: it is called for every message.
    """

    __slots__ = ("_burst", "_clock", "_level", "_rate", "_then")

    def __init__(
        self, rate: float, burst: float | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`rate` per second; `burst` defaults to ten seconds worth. `clock` is in seconds."""
        self._rate = rate
        self._burst = BURST_S * rate if burst is None else burst
        self._clock = clock
        self._level = self._burst
        self._then = clock()

    def take(self, amount: float = 1) -> float:
        """0 if `amount` was there and is taken now; else the seconds until it will be, and nothing is taken.

        More than a whole burst is let through when the bucket is full, and paid back afterwards: else it
        would never be.
        """
        if self._rate <= 0:
            return 0.0
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._then) * self._rate)
        self._then = now
        needed = min(amount, self._burst)
        if self._level >= needed:
            self._level -= amount
            return 0.0
        return (needed - self._level) / self._rate

    def owe(self, amount: float) -> None:
        """Takes it whatever is there; up to DEBTS bursts can be owed."""
        self.take(0)
        self._level = max(self._level - amount, -DEBTS * self._burst)

    def is_full(self) -> bool:
        """Whether the bucket would behave like a new one."""
        return self._level + (self._clock() - self._then) * self._rate >= self._burst


B = TypeVar("B", bound=TokenBucket)


class Buckets(Generic[B]):
    """A bucket for everybody who has taken something of late.

    Memory is bounded: one is forgotten once it is full again, and beyond `most` the one used longest ago is,
    which at worst forgives somebody a burst.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[Hashable, B] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def find(self, who: Hashable) -> B | None:
        return self._held.get(who)

    def use(self, who: Hashable, make: Callable[[], B]) -> B:
        bucket = self._held.get(who)
        if bucket is None:
            self._forget()
            bucket = self._held[who] = make()
        self._held.move_to_end(who)
        return bucket

    def _forget(self) -> None:
        # Two for each newcomer, so that the table shrinks while strangers keep coming.
        for _ in range(2):
            oldest = next(iter(self._held), None)
            if oldest is None:
                return
            if self._held[oldest].is_full() or len(self._held) >= self._most:
                del self._held[oldest]


class Loads:
    """What is under way for whom, of what costs the servers: so much for each at a time."""

    def __init__(self, each: int) -> None:
        """0 stands for no limit."""
        self._each = each
        self._holders: dict[str, str] = {}  # by what is under way
        self._counts: Counter[str] = Counter()

    def begin(self, name: str, holder: str) -> bool:
        """False: as many are under way for this one as may be."""
        if not self._each:
            return True
        if self._counts[holder] >= self._each:
            return False
        self._counts[holder] += 1
        self._holders[name] = holder
        return True

    def end(self, name: str) -> None:
        """It is done with, or was before."""
        holder = self._holders.pop(name, None)
        if holder is None:
            return
        self._counts[holder] -= 1
        if not self._counts[holder]:
            del self._counts[holder]


class MessageLimit(TokenBucket):
    """What one client may send: a token a message, and a strike for each that came without one."""

    __slots__ = ("_strikes", "_struck_at")

    def __init__(self, rate: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(rate, clock=clock)
        self._strikes = 0
        self._struck_at = 0.0

    def strike(self) -> bool:
        """True: more than a second's worth of them, with no pause of ten seconds in between."""
        now = self._clock()
        if now - self._struck_at > BURST_S:
            self._strikes = 0
        self._struck_at = now
        self._strikes += 1
        return self._strikes > self._rate
