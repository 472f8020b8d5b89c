import random as _random
import time
from collections.abc import Callable

__all__ = ["Pacer"]

# An outage is not made up for: what was not sold then is not sold in a rush afterwards.
_MAX_LAG_S = 1.0


class Pacer:
    """Turns for changes at a steady rate, shared by any number of writers.

    Turns are counted from the beginning and not from one to the next, so that what a change takes and how
    late a timer fires do not add up. Each is moved by chance within its own slot: a shop has no metronome.
    """

    def __init__(
        self,
        rate: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        """`rate` is in changes per second. Raises ValueError unless it is above 0."""
        if not rate > 0:
            raise ValueError(f"a rate above 0 is needed, not {rate}")
        self._rate = rate
        self._clock = clock
        self._random = random
        self._began = clock()
        self._taken = 0

    def take(self, changes: int = 1) -> float:
        """Take the next turn, long enough for so many changes. Returns the seconds until it, 0 or more."""
        now = self._clock()
        due = self._began + (self._taken + changes * self._random()) / self._rate
        if now - due > _MAX_LAG_S:
            self._began += now - due
            due = now
        self._taken += changes
        return max(0.0, due - now)

    def give_back(self, changes: int) -> None:
        """So many changes of a turn have not happened: others take their place. Negative: more have."""
        self._taken -= changes
