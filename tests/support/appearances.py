"""Shops that look alike: two histories of exact stock in which the public sees the same, step by step."""

from dataclasses import dataclass, field
from typing import Final

from hypothesis import strategies as st

from protocol.items import Item, tombstone
from tests.support.replica import product, stock

__all__ = ["DEFAULT_LOW", "TOPICS", "Look", "Step", "Twins", "twins"]

DEFAULT_LOW: Final = 5
TOPICS: Final = ("product:A", "location:L1")
_MOST: Final = 9  # the largest threshold that is drawn


@dataclass(frozen=True)
class Look:
    """What the public can know of a product and its stock. `left`: 0 is out of stock, None in stock, else
    `only_left`; `stocked`: whether there is a row at the location of a location's topic."""

    published: bool
    left: int | None = 0
    stocked: bool = True


@dataclass(frozen=True)
class Step:
    """From here on the product looks like this. `messages`: exact changes that all look so, at least one for
    each of the twins. `pause`: everything that is due is sent before the next step."""

    look: Look
    messages: tuple[list[list[Item]], list[list[Item]]]
    pause: bool


@dataclass
class _Shop:
    """One of the twins: draws exact rows for looks."""

    draw: st.DrawFn
    topic: str
    version: int = 0
    published: dict[str, bool] = field(default_factory=dict)

    @property
    def places(self) -> tuple[str, ...]:
        return ("L1",) if self.topic.startswith("location:") else ("L1", "L2", "L3")

    def rows(self, name: str, look: Look) -> list[Item]:
        """A message that is news to the exact view and leaves the product looking like this."""
        was = self.published.get(name, False)
        self.published[name] = look.published
        items = list(self._stock(name, look))
        if look.published and not was:
            items.append(product(name, self._next()))
        elif not look.published and (was or self.draw(st.booleans())):
            gone = self.draw(st.sampled_from(["draft", "archived", None]))
            version = self._next()
            hidden = (
                tombstone(f"product:{name}", version) if gone is None else product(name, version, status=gone)
            )
            items.append(hidden)
        return self.draw(st.permutations(items))

    def _stock(self, name: str, look: Look) -> list[Item]:
        if self.topic.startswith("location:") and not look.stocked:
            return [tombstone(f"stock:{name}:L1", self._next())]
        if not look.published:
            look = Look(False, self.draw(st.none() | st.integers(0, _MOST)))
        amounts, lows = self._amounts(look), self._lows(look)
        items = [
            stock(name, self._next(), on_hand=amount, location_id=place, low_stock_at=low)
            for place, amount, low in zip(self.places, amounts, lows, strict=True)
        ]
        if self.topic.startswith("product:"):  # a location that does not count
            wild = self.draw(st.integers(0, 99))
            items.append(
                stock(
                    name,
                    self._next(),
                    on_hand=wild,
                    location_id="L9",
                    low_stock_at=wild,
                    location_active=False,
                )
            )
        return items

    def _lows(self, look: Look) -> list[int | None]:
        """Thresholds whose largest is one that the amount can have this look with."""
        least = look.left or 0
        if least <= DEFAULT_LOW and self.draw(st.booleans()):
            return [None] * len(self.places)
        largest = self.draw(st.integers(least, _MOST))
        others = st.lists(
            st.none() | st.integers(0, largest), min_size=len(self.places) - 1, max_size=len(self.places) - 1
        )
        return list(self.draw(st.permutations([largest, *self.draw(others)])))

    def _amounts(self, look: Look) -> list[int]:
        """`available` of each place; what is below zero counts as nothing."""
        total = self.draw(st.integers(_MOST + 1, 10_000)) if look.left is None else look.left
        amounts = []
        for _ in self.places[1:]:
            amount = self.draw(st.integers(0, total))
            total -= amount
            amounts.append(amount)
        return [amount or self.draw(st.integers(-5, 0)) for amount in (*amounts, total)]

    def _next(self) -> int:
        self.version += self.draw(st.integers(1, 50))
        return self.version


@dataclass(frozen=True)
class Twins:
    """`rows`: what the topic of each holds at first."""

    topic: str
    rows: tuple[list[Item], list[Item]]
    steps: list[Step]

    def newest(self, number: int, steps: int) -> list[Item]:
        """What the topic of one of them holds after so many steps, in the order of the keys' first words."""
        held = {item.key: item for item in self.rows[number]}
        for step in self.steps[:steps]:
            held |= {item.key: item for message in step.messages[number] for item in message}
        return list(held.values())


_LOOKS: Final = st.builds(
    Look,
    published=st.sampled_from([True, True, False]),
    left=st.none() | st.integers(0, _MOST),
    stocked=st.sampled_from([True, True, False]),
)


@st.composite
def twins(draw: st.DrawFn, topic: str) -> Twins:
    """The looks are drawn once; how they come about, how often and by way of what, for each by itself."""
    names = ["A", "B"] if topic.startswith("location:") else ["A"]
    shops = (_Shop(draw, topic), _Shop(draw, topic))
    begin = {name: draw(_LOOKS) for name in names}
    one, other = ([item for name in names for item in shop.rows(name, begin[name])] for shop in shops)
    steps = []
    for _ in range(draw(st.integers(0, 8))):
        name, look = draw(st.sampled_from(names)), draw(_LOOKS)
        first, second = ([shop.rows(name, look) for _ in range(draw(st.integers(1, 3)))] for shop in shops)
        steps.append(Step(look, (first, second), draw(st.booleans())))
    return Twins(topic, (one, other), steps)
