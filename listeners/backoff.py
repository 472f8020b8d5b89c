import random as _random
from collections.abc import Callable

__all__ = ["Backoff"]


class Backoff:
    """Full-jitter exponential delays between the tries of one thing.

    The n-th delay is drawn evenly from (0, min(cap_s, base_s * 2**(n - 1))]; full jitter spreads a crowd that
    failed together better than any fixed share of jitter does (Amazon Builders' Library, "Timeouts, retries
    and backoff with jitter"). A delay is never below a hundredth of its range, so that a loop around `next()`
    can not spin however the dice fall.
    """

    __slots__ = ("_attempt", "_base_s", "_cap_s", "_random")

    def __init__(
        self,
        base_s: float = 0.1,
        cap_s: float = 5.0,
        *,
        random: Callable[[], float] = _random.random,
    ) -> None:
        """`random` returns a number in [0, 1). Raises ValueError unless 0 < base_s <= cap_s."""
        if not 0 < base_s <= cap_s:
            raise ValueError(f"0 < base_s <= cap_s is needed, not base_s={base_s}, cap_s={cap_s}")
        self._base_s = base_s
        self._cap_s = cap_s
        self._random = random
        self._attempt = 0

    @property
    def attempt(self) -> int:
        """How many delays were handed out since the last success."""
        return self._attempt

    def next(self) -> float:
        """The delay before the next try, in seconds."""
        # The exponent is bounded: 2.0**1024 overflows, and an outage may last for days.
        ceiling_s = min(self._cap_s, self._base_s * 2.0 ** min(self._attempt, 64))
        self._attempt += 1
        return ceiling_s * max(0.01, 1.0 - self._random())

    def reset(self) -> None:
        """Start over after a success."""
        self._attempt = 0
