"""The `public` view of one topic: products, and a word about each one's stock instead of numbers."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import orjson

from protocol.items import Item, tombstone
from protocol.topics import Topic, TopicKind

__all__ = ["PublicView"]

_PUBLISHED: Final = "published"
# What a subscriber can tell apart about availability, as one integer: above zero it is `only_left`.
_OUT_OF_STOCK: Final = 0
_IN_STOCK: Final = -1
_GONE: Final = -2


class _Stock(NamedTuple):
    """What the public view needs of a stock item: `amount` and `low` are 0 and None where the location is
    inactive or the row is gone, which is what takes it out of the sum and of the largest.
    """

    version: int
    exists: bool
    amount: int
    low: int | None


class _Shown(NamedTuple):
    """What subscribers were last told about one availability."""

    version: int
    bucket: int


class PublicView:
    """Follows the exact items of a `product:` or `location:` topic and tells what of it the public can see.

    An availability's version is the highest one of the items it was computed from (the product's, its
    stock's, tombstones included) when it last changed visibly. Where that would not be above the one sent
    before, it is one more than that: versions rise in commit order within a key, not between keys, and a
    client would ignore the change.
    """

    def __init__(self, topic: Topic, low_stock_default: int) -> None:
        """Raises ValueError for a vendor's topic, which has no public view."""
        if topic.kind is TopicKind.VENDOR:
            raise ValueError(f"{topic} has no public view")
        self._topic = topic
        self._per_location = topic.kind is TopicKind.LOCATION
        self._low_stock_default = low_stock_default
        self._products: dict[str, Item] = {}  # by product id; hidden ones as tombstones
        self._stock: dict[str, _Stock] = {}  # by the key of the stock item
        self._shown: dict[str, _Shown] = {}  # by product id; absent: never shown

    def load(self, items: Iterable[Item]) -> None:
        """Starts over from the whole topic, tombstones included; follow it by `snapshot`.

        Versions told before stay the floor for what is still there, as the epoch may be the same.
        """
        deque(self.load_steps(items), maxlen=0)

    def load_steps(self, items: Iterable[Item], *, step: int = 1000) -> Iterator[None]:
        """As `load`, with a pause after every `step` items (milliseconds of work), for topics so large that
        others would wait. Until it has ended the view must not be used otherwise.
        """
        before = self._shown
        self._products, self._stock, self._shown = {}, {}, {}
        for number, item in enumerate(items, 1):
            self._store(item)
            if number % step == 0:
                yield
        for number, product_id in enumerate(self._products, 1):
            known = before.get(product_id)
            if known is not None:
                self._shown[product_id] = known
            self._availability(product_id)
            if number % step == 0:
                yield

    def apply(self, items: Iterable[Item]) -> list[Item]:
        """Takes newer exact items and returns what changed for the public, products first."""
        before: dict[str, Item | None] = {}  # by product id, in the order they were touched
        for item in items:
            product_id = _product_id(item)
            known = self._products.get(product_id)
            if self._store(item):
                before.setdefault(product_id, known)
        products = [
            change for product_id, known in before.items() for change in self._product(product_id, known)
        ]
        return products + [change for product_id in before for change in self._availability(product_id)]

    def snapshot(self) -> list[Item]:
        """Everything the public can see now."""
        return list(self.iter_snapshot())

    def iter_snapshot(self) -> Iterator[Item]:
        """As `snapshot`, one by one; no `load` or `apply` may come between."""
        yield from (item for item in self._products.values() if not item.deleted)
        for product_id, shown in self._shown.items():
            if shown.bucket != _GONE:
                yield self._availability_item(product_id, shown)

    def _store(self, item: Item) -> bool:
        """Whether the item was newer than what is held."""
        if item.key.startswith("product:"):
            product_id = _product_id(item)
            held = self._products.get(product_id)
            if held is not None and held.version >= item.version:
                return False
            self._products[product_id] = _published_or_gone(item)
            return True
        known = self._stock.get(item.key)
        if known is not None and known.version >= item.version:
            return False
        self._stock[item.key] = _stock(item)
        return True

    def _product(self, product_id: str, before: Item | None) -> list[Item]:
        """The product, if it is another one than before and the public can see, or could, that."""
        now = self._products.get(product_id)
        if now is None or now is before or (now.deleted and (before is None or before.deleted)):
            return []
        return [now]

    def _availability(self, product_id: str) -> list[Item]:
        """The availability of a product, if the public has not been told this yet; it counts as told then."""
        bucket, computed_from = self._bucket(product_id)
        shown = self._shown.get(product_id)
        if bucket == (_GONE if shown is None else shown.bucket):
            return []
        version = computed_from if shown is None else max(computed_from, shown.version + 1)
        self._shown[product_id] = now = _Shown(version, bucket)
        return [self._availability_item(product_id, now)]

    def _bucket(self, product_id: str) -> tuple[int, int]:
        """What can be said about a product's stock, and the highest version that says so."""
        product = self._products.get(product_id)
        version = 0 if product is None else product.version
        amount, low, exists = 0, None, not self._per_location
        for entry in self._stock_of(product_id):
            version = max(version, entry.version)
            amount += entry.amount
            exists = exists or entry.exists
            if entry.low is not None and (low is None or entry.low > low):
                low = entry.low
        if product is None or product.deleted or not exists:
            return _GONE, version
        if amount == 0:
            return _OUT_OF_STOCK, version
        return (amount if amount <= (self._low_stock_default if low is None else low) else _IN_STOCK), version

    def _stock_of(self, product_id: str) -> Iterable[_Stock]:
        if not self._per_location:
            return self._stock.values()  # a product's topic holds that product's stock alone
        entry = self._stock.get(f"stock:{product_id}:{self._topic.id}")
        return () if entry is None else (entry,)

    def _availability_item(self, product_id: str, shown: _Shown) -> Item:
        key = f"availability:{product_id}"
        if self._per_location:
            key = f"{key}:{self._topic.id}"
        if shown.bucket == _GONE:
            return tombstone(key, shown.version)
        # Ids are within the grammar of keys: nothing in them needs escaping.
        place = f'"location_id":"{self._topic.id}",' if self._per_location else ""
        head = f'{{"kind":"availability","product_id":"{product_id}",{place}"version":{shown.version},'
        return Item(key, shown.version, False, f"{head}{_in_words(shown.bucket)}}}".encode())


def _product_id(item: Item) -> str:
    return item.key.split(":", 2)[1]


def _in_words(bucket: int) -> str:
    if bucket == _OUT_OF_STOCK:
        return '"status":"out_of_stock"'
    return '"status":"in_stock"' if bucket == _IN_STOCK else f'"status":"low_stock","only_left":{bucket}'


def _published_or_gone(item: Item) -> Item:
    if item.deleted or orjson.loads(item.body)["status"] == _PUBLISHED:
        return item
    return tombstone(item.key, item.version)


def _stock(item: Item) -> _Stock:
    if item.deleted:
        return _Stock(item.version, False, 0, None)
    body = orjson.loads(item.body)
    if body.get("location_active") is False:
        return _Stock(item.version, True, 0, None)
    return _Stock(item.version, True, max(0, body["available"]), body["low_stock_at"])
