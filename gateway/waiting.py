import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["Waiting"]

W = TypeVar("W", bound=Hashable)


class Waiting(Generic[W]):
    """Connections that wait for something of their client, longest first: bounded in number and in time.

    Who has waited longest is dropped when there are too many: a client that means well needs a round trip, so
    a crowd of silent ones pushes itself out and keeps nobody else from coming. All wait equally long, so that
    one timer serves them all, at the price of an entry in a dictionary each.
    """

    def __init__(self, drop: Callable[[W], object], *, limit: int, timeout_s: float) -> None:
        """`limit` 0: any number. `drop` is called once for each that is too long here, which is out then."""
        self._drop = drop
        self._limit = limit
        self._timeout_s = timeout_s
        self._since: dict[W, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.crowded_out = 0
        self.timed_out = 0

    def __len__(self) -> int:
        return len(self._since)

    def __contains__(self, one: W) -> bool:
        return one in self._since

    def add(self, one: W) -> None:
        """It waits from now on, if it does not yet."""
        if one in self._since:
            return
        loop = asyncio.get_running_loop()
        self._since[one] = loop.time()
        if self._limit and len(self._since) > self._limit:
            self.crowded_out += 1
            self._drop_oldest()
        if self._timer is None:
            self._timer = loop.call_later(self._timeout_s, self._look)

    def discard(self, one: W) -> bool:
        """It waits no longer; whether it did."""
        return self._since.pop(one, None) is not None

    def drop_all(self) -> None:
        while self._since:
            self._drop_oldest()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _drop_oldest(self) -> None:
        one = next(iter(self._since))
        del self._since[one]
        self._drop(one)

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        while self._since:
            due = next(iter(self._since.values())) + self._timeout_s
            if due > loop.time():
                self._timer = loop.call_at(due, self._look)
                return
            self.timed_out += 1
            self._drop_oldest()
