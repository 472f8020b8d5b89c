"""Whether this replica alone is cut off, so that its clients are better served by another one."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from gateway.freshness import Freshness

__all__ = ["Standing"]

# Beats that Redis has taken since this replica is stale: one may have been on its way when all links broke.
BEATS: Final = 2
# Questions in a row that Postgres has not answered: a process that was frozen itself finds one.
UNANSWERED: Final = 2

_REDIS: Final = "cut off from Redis: the relay's beats go through it and do not arrive here"
_POSTGRES: Final = "cut off from Postgres: it feeds the relay and does not answer here"


class Standing:
    """Feed it with what Postgres says (listeners.lookout.Lookout); `clock` is monotonic, in s.

    | this replica | the relay's trace in Postgres | ready |
    |---|---|---|
    | is stale | moves: Redis takes its beats, others may be served | no |
    | is stale | stands still: no relay, or no Redis for it either | yes, nobody is better off |
    | is stale | can not be read | yes: it can not know, and a database outage looks like this |
    | is fresh | can not be read while beats go on arriving | no: it can not load topics, others can |
    """

    def __init__(
        self, freshness: Freshness, *, timeout_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`timeout_s`: how long Postgres has for an answer."""
        self._freshness = freshness
        self._timeout_s = timeout_s
        self._clock = clock
        self._answered_at = clock()
        self._unanswered = 0
        self._stale_since_ms: int | None = None
        self._number: int | None = None  # read last while stale
        self._moves = 0
        self._moved_at = 0.0

    def seen(self, answered: bool, number: int | None) -> None:
        """Whether Postgres has answered, and the number of the last beat that Redis has taken."""
        if not answered:
            self._unanswered += 1
            return
        self._unanswered = 0
        self._answered_at = self._clock()
        if self._freshness.stale_since_ms != self._stale_since_ms:
            self._stale_since_ms = self._freshness.stale_since_ms
            self._number, self._moves = None, 0
        if self._stale_since_ms is None or number is None:
            return
        if self._number is not None and number != self._number:
            self._moves += 1
            self._moved_at = self._clock()
        self._number = number

    @property
    def cut_off_from_redis(self) -> bool:
        freshness = self._freshness
        return (
            freshness.stale
            and freshness.stale_since_ms == self._stale_since_ms
            and self._moves >= BEATS
            and self._clock() - self._moved_at <= freshness.patience_s + self._timeout_s
        )

    @property
    def cut_off_from_postgres(self) -> bool:
        """What is asked is when the last beat came, not how late it is: when Postgres is down for everybody,
        none comes after its last answer but those on their way."""
        freshness = self._freshness
        if freshness.stale or freshness.last_beat is None or self._unanswered < UNANSWERED:
            return False
        return freshness.last_beat - self._answered_at > freshness.patience_s

    def not_ready(self) -> Sequence[str]:
        """Why this replica should get no clients, a line each."""
        # Once proven, the way from Postgres may fail for every replica at once: taking all of them out of
        # rotation would only turn `stale` into `gone`.
        if not self._freshness.was_fresh:
            return ["no canary has come from Postgres yet: is a relay running?"]
        if self.cut_off_from_redis:
            return [_REDIS]
        return [_POSTGRES] if self.cut_off_from_postgres else []

    def statistics(self) -> Mapping[str, float | Mapping[str, float]]:
        """In the names of gateway.metrics."""
        return {
            "gateway_cut_off": {
                "redis": float(self.cut_off_from_redis),
                "postgres": float(self.cut_off_from_postgres),
            }
        }
