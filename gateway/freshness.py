"""Whether the way from Postgres to this replica is proven live, and up to when everything has arrived."""

from enum import Enum, auto
from typing import Final

__all__ = ["Freshness", "Transition"]

# A replica that has not heard the canary for this many of its periods tells its clients.
STALE_AFTER_PERIODS: Final = 3


class Transition(Enum):
    """What clients have to be told."""

    STALE = auto()
    FRESH = auto()


class Freshness:
    """Pure: `now` is a monotonic time in seconds, `_ms` are unix milliseconds of Postgres' clock.

    A replica starts stale: nothing is proven before the first canary. After a lost link it becomes fresh only
    once its topics have been compared with the store (`verified`).
    """

    def __init__(self, canary_s: float, *, wall_ms: int) -> None:
        self.as_of_ms: int | None = None
        self.stale_since_ms: int | None = wall_ms
        self._patience_s = STALE_AFTER_PERIODS * canary_s
        self._last_beat: float | None = None
        self._verified = True
        self.was_fresh = False  # ever

    @property
    def stale(self) -> bool:
        return self.stale_since_ms is not None

    def beat(self, as_of_ms: int, now: float) -> Transition | None:
        """The canary has arrived: everything committed before `as_of_ms` has."""
        self.as_of_ms = as_of_ms
        self._last_beat = now
        return self.check(now)

    def lost(self) -> None:
        """Messages may have been missed: a canary alone proves nothing until verified()."""
        self._verified = False

    def verified(self, now: float) -> Transition | None:
        """Every topic stands where the store says, or has been sent to be repaired."""
        self._verified = True
        return self.check(now)

    def check(self, now: float) -> Transition | None:
        """Call it several times a canary period."""
        late = self._last_beat is None or now - self._last_beat > self._patience_s
        if late and self.stale_since_ms is None:
            self.stale_since_ms = self.as_of_ms
            return Transition.STALE
        if not late and self._verified and self.stale_since_ms is not None:
            self.stale_since_ms = None
            self.was_fresh = True
            return Transition.FRESH
        return None
