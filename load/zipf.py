import random
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from typing import Generic, TypeVar

__all__ = ["Zipf"]

T = TypeVar("T")


class Zipf(Generic[T]):
    """Draws from `things` by popularity: the n-th comes 1/n times as often as the first."""

    def __init__(self, things: Sequence[T], rng: random.Random) -> None:
        self._things = things
        self._rng = rng
        self._weights = list(accumulate(1 / rank for rank in range(1, len(things) + 1)))

    def one(self) -> T:
        return self._things[bisect(self._weights, self._rng.random() * self._weights[-1])]

    def several(self, count: int) -> list[T]:
        """Different ones. Raises ValueError for more than there are."""
        if count > len(self._things):
            raise ValueError(f"there are {len(self._things)} things, not {count}")
        drawn: dict[T, None] = {}
        while len(drawn) < count:
            drawn[self.one()] = None
        return list(drawn)
