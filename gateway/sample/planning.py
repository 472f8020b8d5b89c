"""What happens next in the sample shop: decided here without a database, done by selling.py."""

import random as _random
from collections import deque
from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

__all__ = ["USUAL", "Kind", "Line", "Plan", "Planner", "Shelf"]


class Kind(StrEnum):
    """The values are the words of the summary."""

    SALE = "sales"
    RESERVE = "reservations"
    COLLECT = "collected"
    CANCEL = "cancelled"
    RESTOCK = "restocks"
    ANNOUNCE = "deliveries announced"
    TRANSFER = "transfers"
    DAMAGE = "breakages"
    PRICE = "price changes"
    STATUS = "status changes"
    ABANDON = "rolled back"


class Shelf(NamedTuple):
    """A product and where it lies."""

    product_id: str
    location_ids: Sequence[str]


class Line(NamedTuple):
    product_id: str
    location_id: str
    quantity: int


class Plan(NamedTuple):
    """One transaction. Its lines are in the order of their keys, so that no two plans can deadlock."""

    kind: Kind
    lines: tuple[Line, ...]
    value: str = ""  # the factor of a PRICE, the new word of a STATUS

    @property
    def changes(self) -> int:
        """How many rows it is going to change, if all goes well."""
        return 0 if self.kind is Kind.ABANDON else len(self.lines)


USUAL: Final[Mapping[Kind, float]] = MappingProxyType(
    {
        Kind.SALE: 70,
        Kind.RESERVE: 9,
        Kind.COLLECT: 5,
        Kind.CANCEL: 3,
        Kind.RESTOCK: 3,
        Kind.ANNOUNCE: 2,
        Kind.TRANSFER: 2,
        Kind.DAMAGE: 1,
        Kind.PRICE: 3,
        Kind.STATUS: 0.5,
        Kind.ABANDON: 1.5,
    }
)
"""How often each happens, in parts of their sum."""

_LINES: Final = (1, 1, 1, 1, 1, 2, 2, 3)
_QUANTITIES: Final = (1, 1, 1, 1, 1, 2, 2, 3)
_RESTOCKS: Final = (12, 24, 24, 36, 48)
# Up and down even out, or a week of sales would make everything free.
_FACTORS: Final = ("0.8", "0.9", "1.1", "1.25", "0.95", "1.06")
# More than so many products are not taken off the shelves at a time.
_OFF_SALE: Final = 3
_SHORT: Final = 1000


class Planner:
    """Decides what happens next.

    How often a product sells falls with its place among `shelves` as Zipf's law has it with exponent 1: the
    k-th has a share of 1/k. `noted_short` and `noted_refused` tell it what the transactions have met.
    """

    def __init__(
        self,
        shelves: Sequence[Shelf],
        *,
        usual: Mapping[Kind, float] = USUAL,
        random: _random.Random | None = None,
    ) -> None:
        """Raises ValueError without shelves."""
        if not shelves:
            raise ValueError("there is nothing to sell")
        self._shelves = shelves
        self._kinds = tuple(usual)
        self._weights = tuple(usual.values())
        self._random = random or _random.Random()
        self._short: deque[Line] = deque(maxlen=_SHORT)
        self._off_sale: deque[str] = deque()

    def next(self) -> Plan:
        (kind,) = self._random.choices(self._kinds, self._weights)
        match kind:
            case Kind.SALE | Kind.ABANDON:
                return self._order(kind)
            case Kind.RESTOCK | Kind.ANNOUNCE:
                return self.restock(self._shortest(), kind)
            case Kind.TRANSFER:
                return self._transfer()
            case Kind.PRICE:
                return self._of_product(kind, self._popular().product_id, self._random.choice(_FACTORS))
            case Kind.STATUS:
                return self._status()
            case _:
                return Plan(kind, (self._line(self._popular()),))

    def restock(self, line: Line, kind: Kind = Kind.RESTOCK) -> Plan:
        return Plan(kind, (line._replace(quantity=self._random.choice(_RESTOCKS)),))

    def noted_short(self, line: Line) -> None:
        """A sale has left little there: the next delivery goes to the places that were noted first."""
        self._short.append(line)

    def _popular(self) -> Shelf:
        # The logarithm of the place is spread evenly, so the share of place k is log((k + 1) / k) ~ 1/k.
        place = int((len(self._shelves) + 1) ** self._random.random())
        return self._shelves[min(place, len(self._shelves)) - 1]

    def _line(self, shelf: Shelf) -> Line:
        return Line(
            shelf.product_id,
            self._random.choice(shelf.location_ids),
            self._random.choice(_QUANTITIES),
        )

    def _order(self, kind: Kind) -> Plan:
        """What one customer takes at one till."""
        first = self._line(self._popular())
        lines = {first.product_id: first}
        for _ in range(self._random.choice(_LINES) - 1):
            shelf = self._popular()
            if first.location_id in shelf.location_ids:
                lines[shelf.product_id] = self._line(shelf)._replace(location_id=first.location_id)
        return Plan(kind, tuple(lines[key] for key in sorted(lines)))

    def _shortest(self) -> Line:
        return self._short.popleft() if self._short else self._line(self._popular())

    def _transfer(self) -> Plan:
        """The first line with a negative quantity is where it is taken from; the lines are in key order."""
        shelf = self._popular()
        if len(shelf.location_ids) < 2:
            return Plan(Kind.SALE, (self._line(shelf),))
        source, target = self._random.sample(list(shelf.location_ids), 2)
        quantity = self._random.choice((2, 4, 6))
        lines = (Line(shelf.product_id, source, -quantity), Line(shelf.product_id, target, quantity))
        return Plan(Kind.TRANSFER, tuple(sorted(lines)))

    def _status(self) -> Plan:
        if len(self._off_sale) >= _OFF_SALE or (self._off_sale and self._random.random() < 0.5):
            return self._of_product(Kind.STATUS, self._off_sale.popleft(), "published")
        # Not the popular ones: a storefront does not drop what sells best.
        shelf = self._shelves[self._random.randrange(len(self._shelves) // 4, len(self._shelves))]
        if shelf.product_id in self._off_sale:
            self._off_sale.remove(shelf.product_id)
            return self._of_product(Kind.STATUS, shelf.product_id, "published")
        self._off_sale.append(shelf.product_id)
        return self._of_product(
            Kind.STATUS, shelf.product_id, "archived" if self._random.random() < 0.3 else "draft"
        )

    @staticmethod
    def _of_product(kind: Kind, product_id: str, value: str) -> Plan:
        return Plan(kind, (Line(product_id, "", 0),), value)
