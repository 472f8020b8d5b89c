import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from listeners.errors import Unavailable

__all__ = ["Asking", "ReaderWatch"]

_SAYS = """
    SELECT wait_event AS waits_for, state_change::text AS since
    FROM pg_catalog.pg_stat_get_activity($1) WHERE pid IS NOT NULL
"""


class Asking:
    """Since when an answer is awaited on a link, by the given clock in s; None: none is.

    `backend`: the pid at the other end, as it says itself; None: not known yet.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.since: float | None = None
        self.backend: int | None = None
        self._clock = clock

    @contextmanager
    def now(self) -> Iterator[None]:
        self.since = self._clock()
        try:
            yield
        finally:
            self.since = None


class ReaderWatch:
    """Finds a half-open link on which an answer is awaited that may rightly take minutes.

    No timeout can tell a slow answer from one that will never come; the server can: while we wait, the
    backend is at work. If it waits for us as we wait for it, then the question or the answer is lost. Seen
    once that may be chance: a question that is just arriving; twice in a row it is not. Its state does not
    tell: it is `active`, too, in the middle of a question that came in parts.
    """

    def __init__(
        self,
        asking: Asking,
        *,
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """An answer may take `patience_s` before anything is asked."""
        self._asking = asking
        self._patience_s = patience_s
        self._clock = clock
        self._suspicion: tuple[float, str] | None = None

    async def look(self, connection: Any) -> None:
        """Ask the server over another link. Raises Unavailable for a link that is half-open."""
        asked, backend = self._asking.since, self._asking.backend
        if asked is None or backend is None or self._clock() - asked < self._patience_s:
            self._suspicion = None
            return
        says = await connection.fetchrow(_SAYS, backend)
        if self._asking.since != asked:
            return  # answered meanwhile
        if says is None:
            raise Unavailable("Postgres: the reader's session is gone, and its link says nothing")
        if says["waits_for"] != "ClientRead":
            self._suspicion = None  # at work, or another role's session, of which we are told nothing
            return
        before, self._suspicion = self._suspicion, (asked, says["since"])
        if before == self._suspicion:
            raise Unavailable(
                "Postgres: the reader's link is half-open: its backend waits for us, and we for it"
            )
