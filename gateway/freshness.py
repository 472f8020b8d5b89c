"""Whether the way from Postgres to this replica is proven live, and up to when everything has arrived."""

from enum import Enum, auto
from typing import Final

__all__ = ["STALE_AFTER_PERIODS", "Freshness", "Transition"]

# A replica that has not heard the canary for this many of its periods tells its clients.
STALE_AFTER_PERIODS: Final = 3


class Transition(Enum):
    """What clients have to be told."""

    STALE = auto()
    FRESH = auto()


class Freshness:
    """Pure: `now` is a monotonic time in seconds, `_ms` are unix milliseconds of Postgres' clock.

    A replica starts stale: nothing is proven before the first canary. When messages may have been missed, a
    canary proves nothing until this replica's positions have been compared with the store's, by a comparison
    that began after the bus was there again: `comparing`, then `verified`. What the comparison finds to be
    behind is in doubt from then on, topic by topic (gateway.doubts).
    """

    def __init__(self, canary_s: float, *, wall_ms: int) -> None:
        self.as_of_ms: int | None = None
        self.stale_since_ms: int | None = wall_ms
        self.was_fresh = False  # ever
        self.last_beat: float | None = None
        self.losses = 0  # moments from which on something may have been missed
        self.patience_s = STALE_AFTER_PERIODS * canary_s
        self._heard_as_of_ms: int | None = None
        self._connected = True
        self._unverified_since: float | None = None

    @property
    def stale(self) -> bool:
        return self.stale_since_ms is not None

    def beat(self, as_of_ms: int, now: float) -> Transition | None:
        """The canary has arrived: everything committed before `as_of_ms` has."""
        self._heard_as_of_ms = as_of_ms
        self.last_beat = now
        return self.check(now)

    def lost(self, now: float) -> None:
        """The bus is gone: messages may be missed."""
        self._connected = False
        self.doubt(now)

    def restored(self) -> None:
        """The bus is there again, with everything that is wanted."""
        self._connected = True

    def doubt(self, now: float) -> None:
        """Something may have been missed: the positions have to be compared."""
        self.losses += 1
        if self._unverified_since is None:
            self._unverified_since = now

    @property
    def in_doubt(self) -> bool:
        """Something may have been missed and has not been compared since."""
        return self._unverified_since is not None

    def comparing(self) -> int | None:
        """A comparison begins; what it returns is for `verified`. None: it will prove nothing."""
        return self.losses if self._connected else None

    def verified(self, comparison: int | None, now: float) -> Transition | None:
        """Every topic stands where the store says, or is known to be behind."""
        if comparison == self.losses:
            self._unverified_since = None
        return self.check(now)

    def check(self, now: float) -> Transition | None:
        """Call it several times a canary period."""
        if not self.in_doubt:
            self.as_of_ms = self._heard_as_of_ms
        overdue = self._is_overdue(self.last_beat, now)
        if self.stale_since_ms is None:
            if overdue or (self.in_doubt and self._is_overdue(self._unverified_since, now)):
                self.stale_since_ms = self.as_of_ms
                return Transition.STALE
        elif not self.in_doubt and not overdue:
            self.stale_since_ms = None
            self.was_fresh = True
            return Transition.FRESH
        return None

    def _is_overdue(self, since: float | None, now: float) -> bool:
        return since is None or now - since > self.patience_s
