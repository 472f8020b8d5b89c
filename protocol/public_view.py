"""The `public` view of one topic: products, and a word about each one's stock instead of numbers."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from struct import Struct
from typing import Final

import orjson

from protocol.items import Item, tombstone
from protocol.topics import Topic, TopicKind

__all__ = ["PublicView"]

_PUBLISHED: Final = "published"
# What a subscriber can tell apart about availability, as one integer: above zero it is `only_left`.
_OUT_OF_STOCK: Final = 0
_IN_STOCK: Final = -1
_GONE: Final = -2


# What is held for each item is one object of bytes: a dictionary of nothing but text and bytes is none of the
# garbage collector's business. With tuples, each of its full collections took 50 ms for 100,000 items.

# What the public view needs of a stock item: version, whether it exists, amount, low. The last two are 0 and
# -1 where the location is inactive or the row is gone: it is neither in the sum nor in the largest then.
_STOCK: Final = Struct("<q?qq")
_NO_LOW: Final = -1
# What subscribers were last told about one availability: version, bucket.
_SHOWN: Final = Struct("<qq")
# Products that a snapshot is put in order for: more would hold up the event loop.
_SORTED: Final = 5000
# The version of a product; its body follows, or nothing if it is hidden or gone.
_PRODUCT: Final = Struct("<q")


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
        self._products: dict[str, bytes] = {}  # by product id
        self._stock: dict[str, bytes] = {}  # by the key of the stock item
        self._shown: dict[str, bytes] = {}  # by product id; absent: never shown
        self._before: dict[str, bytes] = {}  # as of before a new load

    def load(self, items: Iterable[Item]) -> None:
        """Starts over from the whole topic, tombstones included; follow it by `snapshot` or `pages`.

        Versions told before stay the floor for what is still there, as the epoch may be the same.
        """
        self._before = self._shown
        self._products, self._stock, self._shown = {}, {}, {}
        self.add(items)
        deque(self.conclude(), maxlen=0)

    def add(self, items: Iterable[Item]) -> None:
        """A part of the topic. Follow the last one by `conclude`; until that has ended the view must not be
        used otherwise."""
        for item in items:
            self._store(item)

    def conclude(self, *, step: int = 1000) -> Iterator[None]:
        """All parts were added. Pauses after every `step` products (milliseconds of work), for topics so
        large that others would wait."""
        before, self._before = self._before, {}
        for number, product_id in enumerate(self._products, 1):
            known = before.get(product_id)
            if known is not None:
                self._shown[product_id] = known
            self._availability(product_id)
            if number % step == 0:
                yield

    def apply(self, items: Iterable[Item]) -> list[Item]:
        """Takes newer exact items and returns what changed for the public, products first."""
        before: dict[str, bytes | None] = {}  # by product id, in the order they were touched
        for item in items:
            product_id = _product_id(item)
            known = self._products.get(product_id)
            if self._store(item):
                before.setdefault(product_id, known)
        products = [
            change for product_id, known in before.items() for change in self._product(product_id, known)
        ]
        return products + [change for product_id in before for change in self._availability(product_id)]

    def __len__(self) -> int:
        """How many items a snapshot has at the most."""
        return len(self._products) + len(self._shown)

    def snapshot(self) -> list[Item]:
        """Everything the public can see now."""
        return [item for page in self.pages() for item in page]

    def pages(self, *, size: int = 1000) -> Iterator[list[Item]]:
        """As `snapshot`, in lists of up to `size`, which `apply` may come between: then what is still to come
        is shown as it is by then, and what was not there at the beginning may be left out.

        Up to 5,000 products come by their ids, larger topics in the order in which they were stored.
        """
        products = iter(_in_order(self._products))
        while ids := list(islice(products, size)):
            yield [
                _product_item(product_id, held)
                for product_id in ids
                if not _is_hidden(held := self._products[product_id])
            ]
        shown = iter(_in_order(self._shown))
        while ids := list(islice(shown, size)):
            told = ((product_id, *_SHOWN.unpack(self._shown[product_id])) for product_id in ids)
            yield [self._availability_item(*each) for each in told if each[2] != _GONE]

    def _store(self, item: Item) -> bool:
        """Whether the item was newer than what is held."""
        if item.key.startswith("product:"):
            product_id = _product_id(item)
            held = self._products.get(product_id)
            if held is not None and _PRODUCT.unpack_from(held)[0] >= item.version:
                return False
            self._products[product_id] = _PRODUCT.pack(item.version) + (
                item.body if _is_published(item) else b""
            )
            return True
        known = self._stock.get(item.key)
        if known is not None and _STOCK.unpack(known)[0] >= item.version:
            return False
        self._stock[item.key] = _stock(item)
        return True

    def _product(self, product_id: str, before: bytes | None) -> list[Item]:
        """The product, if it is another one than before and the public can see, or could, that."""
        now = self._products.get(product_id)
        if now is None or now is before or (_is_hidden(now) and (before is None or _is_hidden(before))):
            return []
        return [_product_item(product_id, now)]

    def _availability(self, product_id: str) -> list[Item]:
        """The availability of a product, if the public has not been told this yet; it counts as told then."""
        bucket, computed_from = self._bucket(product_id)
        shown = self._shown.get(product_id)
        told_version, told_bucket = (-1, _GONE) if shown is None else _SHOWN.unpack(shown)
        if bucket == told_bucket:
            return []
        version = max(computed_from, told_version + 1)
        self._shown[product_id] = _SHOWN.pack(version, bucket)
        return [self._availability_item(product_id, version, bucket)]

    def _bucket(self, product_id: str) -> tuple[int, int]:
        """What can be said about a product's stock, and the highest version that says so."""
        product = self._products.get(product_id)
        version = 0 if product is None else _PRODUCT.unpack_from(product)[0]
        total, largest, found = 0, _NO_LOW, not self._per_location
        for stock_version, exists, amount, low in map(_STOCK.unpack, self._stock_of(product_id)):
            version = max(version, stock_version)
            total += amount
            found = found or exists
            largest = max(largest, low)
        if product is None or _is_hidden(product) or not found:
            return _GONE, version
        if total == 0:
            return _OUT_OF_STOCK, version
        threshold = self._low_stock_default if largest == _NO_LOW else largest
        return (total if total <= threshold else _IN_STOCK), version

    def _stock_of(self, product_id: str) -> Iterable[bytes]:
        if not self._per_location:
            return self._stock.values()  # a product's topic holds that product's stock alone
        entry = self._stock.get(f"stock:{product_id}:{self._topic.id}")
        return () if entry is None else (entry,)

    def _availability_item(self, product_id: str, version: int, bucket: int) -> Item:
        key = f"availability:{product_id}"
        if self._per_location:
            key = f"{key}:{self._topic.id}"
        if bucket == _GONE:
            return tombstone(key, version)
        # Ids are within the grammar of keys: nothing in them needs escaping.
        place = f'"location_id":"{self._topic.id}",' if self._per_location else ""
        head = f'{{"kind":"availability","product_id":"{product_id}",{place}"version":{version},'
        return Item(key, version, False, f"{head}{_in_words(bucket)}}}".encode())


def _product_id(item: Item) -> str:
    return item.key.split(":", 2)[1]


def _in_order(by_product: dict[str, bytes]) -> list[str]:
    return sorted(by_product) if len(by_product) <= _SORTED else list(by_product)


def _is_hidden(product: bytes) -> bool:
    return len(product) == _PRODUCT.size


def _product_item(product_id: str, held: bytes) -> Item:
    (version,) = _PRODUCT.unpack_from(held)
    key = f"product:{product_id}"
    if _is_hidden(held):
        return tombstone(key, version)
    return Item(key, version, False, held[_PRODUCT.size :])


def _in_words(bucket: int) -> str:
    if bucket == _OUT_OF_STOCK:
        return '"status":"out_of_stock"'
    return '"status":"in_stock"' if bucket == _IN_STOCK else f'"status":"low_stock","only_left":{bucket}'


def _is_published(item: Item) -> bool:
    return not item.deleted and bool(orjson.loads(item.body)["status"] == _PUBLISHED)


def _stock(item: Item) -> bytes:
    if item.deleted:
        return _STOCK.pack(item.version, False, 0, _NO_LOW)
    body = orjson.loads(item.body)
    if body.get("location_active") is False:
        return _STOCK.pack(item.version, True, 0, _NO_LOW)
    low = body["low_stock_at"]
    return _STOCK.pack(item.version, True, max(0, body["available"]), _NO_LOW if low is None else low)
