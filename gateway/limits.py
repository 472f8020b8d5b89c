import time
from collections.abc import Callable
from typing import Final

__all__ = ["BURST_S", "MessageLimit", "TokenBucket"]

# Seconds worth of tokens a bucket holds: a client that subscribes to a page of topics at once is no abuser.
BURST_S: Final = 10


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

    def is_full(self) -> bool:
        """Whether the bucket would behave like a new one."""
        return self._level + (self._clock() - self._then) * self._rate >= self._burst


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
