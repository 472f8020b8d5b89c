"""When credentials end: one heap for all connections of a process. No I/O."""

import heapq
from collections.abc import Iterator
from itertools import count
from typing import Final, Generic, NamedTuple, TypeVar

from protocol.principal import Principal

__all__ = ["WARNING_S", "Due", "ExpiryHeap"]

# How long before the end a client is told.
WARNING_S: Final = 60.0
# Entries that were replaced or forgotten stay in the heap until there are so many times more than held ones.
_SLACK: Final = 2

HolderT = TypeVar("HolderT")


class Due(NamedTuple, Generic[HolderT]):
    """`ended`: the credentials are no good any more; else they will not be soon."""

    holder: HolderT
    principal: Principal
    ended: bool


class _Entry(NamedTuple):
    at: float
    number: int  # so that no two compare further
    ended: bool
    holder: object


class ExpiryHeap(Generic[HolderT]):
    """Times are seconds since 1970."""

    def __init__(self, *, leeway_s: float = 0.0) -> None:
        self._leeway_s = leeway_s
        self._heap: list[_Entry] = []
        self._held: dict[HolderT, tuple[Principal, int]] = {}
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._held)

    def holds(self, holder: HolderT) -> bool:
        return holder in self._held

    def hold(self, holder: HolderT, principal: Principal, now: float) -> None:
        """From now on the holder has these credentials, instead of those it had."""
        end = principal.expires_at
        if end is None:
            self.forget(holder)
            return
        if end <= now:
            end += self._leeway_s  # it was let in within the leeway, so it stays that long
        number = next(self._numbers)
        self._held[holder] = (principal, number)
        heapq.heappush(self._heap, _Entry(end - WARNING_S, number, False, holder))
        self._compact()

    def forget(self, holder: HolderT) -> Principal | None:
        """The holder is gone; the credentials it had, if any."""
        principal, _ = self._held.pop(holder, (None, -1))
        self._compact()
        return principal

    def held(self) -> Iterator[tuple[HolderT, Principal]]:
        """Everybody, with the credentials in force."""
        for holder, (principal, _) in list(self._held.items()):
            yield holder, principal

    def next_at(self) -> float:
        """When due() may have something; infinity: never."""
        return self._heap[0].at if self._heap else float("inf")

    def due(self, now: float) -> list[Due[HolderT]]:
        """What has come up to now, once each; who has ended is forgotten."""
        found: list[Due[HolderT]] = []
        while self._heap and self._heap[0].at <= now:
            entry = heapq.heappop(self._heap)
            holder: HolderT = entry.holder  # type: ignore[assignment] # hold() has put it there
            principal, number = self._held.get(holder, (None, -1))
            if principal is None or number != entry.number:
                continue
            if entry.ended:
                del self._held[holder]
            else:
                heapq.heappush(self._heap, _Entry(entry.at + WARNING_S, number, True, holder))
            found.append(Due(holder, principal, entry.ended))
        return found

    def _compact(self) -> None:
        if len(self._heap) <= 64 + _SLACK * len(self._held):
            return
        numbers = {number for _, number in self._held.values()}
        self._heap = [entry for entry in self._heap if entry.number in numbers]
        heapq.heapify(self._heap)
