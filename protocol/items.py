"""Items as they travel from the relay to the clients: a key, a version and the encoded body."""

import re
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from operator import itemgetter
from typing import Any, Final, NamedTuple

import orjson

from protocol.timestamps import normalise_time
from protocol.topics import KEY_GRAMMAR, is_key

__all__ = [
    "MAX_BODY_BYTES",
    "Copy",
    "InvalidRow",
    "Item",
    "ItemKind",
    "build_item",
    "item_key",
    "says_the_same",
    "split_by_size",
    "stock_ids",
    "tombstone",
]


class ItemKind(StrEnum):
    STOCK = "stock"
    PRODUCT = "product"
    AVAILABILITY = "availability"


class Item(NamedTuple):
    """One version of one thing. `body` is its JSON object as the `exact` view sends it."""

    key: str  # item_key(): `stock:A:L1`, `product:A`
    version: int
    deleted: bool
    body: bytes


class InvalidRow(ValueError):
    """A row that can not become an item, for instance because its key is outside the topic grammar."""


def item_key(item: Mapping[str, Any]) -> str:
    """The key (kind, product_id, location_id where present) of a decoded item, as one string."""
    location = item.get("location_id")
    key = f"{item['kind']}:{item['product_id']}"
    return key if location is None else f"{key}:{location}"


MAX_BODY_BYTES: Final = 49_152  # leaves room for a whole payload of 64 KiB around it
_CUT_TEXT: Final = 1_000  # characters; at most six bytes each, and five texts an item
_MAX_INTEGER: Final = 2**53 - 1  # what JavaScript's Number holds exactly

_INTEGERS: Final = {
    "stock": ("available", "on_hand", "reserved", "damaged", "safety_stock", "incoming"),
    "product": ("price_minor",),
}
_TEXTS: Final = {"stock": (), "product": ("sku", "name", "category", "currency", "status")}


def build_item(kind: str, row: Mapping[str, Any], version: int) -> Item:
    """The item of a row, `row` being what `gateway.item_*` makes of it (see listeners/sources).

    `kind` is `stock` or `product`. Raises InvalidRow for keys outside the grammar and values of a wrong type.
    Texts that would make the item too large for one payload are cut, so that its other fields stay live.
    """
    return (_plain_stock(row, version) if kind == "stock" else None) or _any_item(kind, row, version)


_three_keys: Final = re.compile(":".join([KEY_GRAMMAR] * 3)).fullmatch
_STOCK_IDS: Final = itemgetter("product_id", "location_id", "vendor_id")
_STOCK_NUMBERS: Final = itemgetter(*_INTEGERS["stock"], "low_stock_at", "updated_at")


def _plain_stock(row: Mapping[str, Any], version: int) -> Item | None:
    """What `_any_item` makes of a row as Postgres logs nearly all of them, in half the time.

    None: the row is another one, or not fit for an item.
    """
    try:
        product_id, location_id, vendor_id = ids = _STOCK_IDS(row)
        available, on_hand, reserved, damaged, safety_stock, incoming, low, updated_at = _STOCK_NUMBERS(row)
        if (
            not (type(available) is type(on_hand) is type(reserved) is type(damaged) is int)
            or not (type(safety_stock) is type(incoming) is int and (low is None or type(low) is int))
            or _three_keys(":".join(ids)) is None
        ):
            return None
        body = orjson.dumps(
            {
                "kind": "stock",
                "product_id": product_id,
                "location_id": location_id,
                "vendor_id": vendor_id,
                "version": version,
                "available": available,
                "on_hand": on_hand,
                "reserved": reserved,
                "damaged": damaged,
                "safety_stock": safety_stock,
                "incoming": incoming,
                "low_stock_at": low,
                "location_active": row.get("location_active") is not False,
                "updated_at": normalise_time(updated_at),
            },
            option=orjson.OPT_STRICT_INTEGER,  # raises TypeError for integers beyond 2^53 - 1
        )
    except (KeyError, TypeError, ValueError):
        return None
    return Item(f"stock:{product_id}:{location_id}", version, False, body)


def stock_ids(row: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """The product, location and vendor of a stock row; None if one of them is outside the grammar of keys."""
    try:
        ids: tuple[str, str, str] = _STOCK_IDS(row)
        return ids if _three_keys(":".join(ids)) else None  # one match is cheaper than three
    except (KeyError, TypeError):
        return None


def _any_item(kind: str, row: Mapping[str, Any], version: int) -> Item:
    ids = ("product_id", "location_id", "vendor_id") if kind == "stock" else ("product_id", "vendor_id")
    body: dict[str, Any] = {"kind": kind}
    for name in ids:
        value = row.get(name)
        if not isinstance(value, str) or not is_key(value):
            raise InvalidRow(f"{name} {value!r:.80} is outside the grammar of keys")
        body[name] = value
    body["version"] = version
    for name in _INTEGERS[kind]:
        value = row.get(name)
        body[name] = 0 if value is None else _integer(name, value)  # as where the topics are loaded
    for name in _TEXTS[kind]:
        value = row.get(name)
        body[name] = "" if value is None else str(value)
    if kind == "stock":
        low = row.get("low_stock_at")
        body["low_stock_at"] = None if low is None else _integer("low_stock_at", low)
        body["location_active"] = row.get("location_active") is not False
    body["updated_at"] = _time(row.get("updated_at"))
    return Item(item_key(body), version, False, _encode(body))


def _encode(body: dict[str, Any]) -> bytes:
    encoded = orjson.dumps(body)
    if len(encoded) <= MAX_BODY_BYTES:
        return encoded
    cut = {name: body[name][:_CUT_TEXT] for name in _TEXTS[body["kind"]]}
    return orjson.dumps(body | cut)


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRow(f"{name} {value!r:.80} is no number")
    # The comparison comes first: it is false for NaN and infinity, which have no int().
    if not (abs(value) <= _MAX_INTEGER and value == int(value)):
        raise InvalidRow(f"{name} {value!r:.80} is no whole number below 2^53")
    return int(value)


def _time(value: Any) -> str | None:
    if value is None:
        return None
    try:
        return normalise_time(value)
    except (TypeError, ValueError) as error:
        raise InvalidRow(f"updated_at {value!r:.80} is no time") from error


def tombstone(key: str, version: int) -> Item:
    """The item that says: what was under this key is gone, as of this version."""
    kind, product_id, *location = key.split(":")
    body: dict[str, Any] = {"kind": kind, "product_id": product_id}
    if location:
        body["location_id"] = location[0]
    return Item(key, version, True, orjson.dumps(body | {"version": version, "deleted": True}))


def says_the_same(one: Item, other: Item) -> bool:
    """Whether two items under one key differ in nothing but their versions."""
    return _without_version(one) == _without_version(other)


def _without_version(item: Item) -> bytes:
    # Before it there are only ids, which have no quotes: the first one is the member.
    return item.body.replace(b'"version":%d' % item.version, b"", 1)


def split_by_size(items: Iterable[Item], limit: int) -> Iterator[list[Item]]:
    """Cuts items into runs whose bodies, a byte added to each for the comma, are within `limit` bytes."""
    group: list[Item] = []
    room = limit
    for item in items:
        size = len(item.body) + 1
        if size > room and group:
            yield group
            group, room = [], limit
        group.append(item)
        room -= size
    if group:
        yield group


class Copy:
    """A client's copy of one topic, kept by the rule of the contract.

    Within an epoch an item is applied only if its version is above the one held for its key; `deleted`
    removes it, and its version is remembered until the next snapshot replaces everything.
    """

    def __init__(self) -> None:
        self.items: dict[str, dict[str, Any]] = {}
        self._versions: dict[str, int] = {}

    def reset(self) -> None:
        """A snapshot's part 1 has come."""
        self.items.clear()
        self._versions.clear()

    def version(self, key: str) -> int:
        """The version held or remembered for the key; -1: none in this epoch."""
        return self._versions.get(key, -1)

    def versions(self) -> dict[str, int]:
        """All of them, by key."""
        return dict(self._versions)

    def apply(self, items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Applies decoded items and returns those that were newer than what was held."""
        return [item for item in items if self._apply_one(item)]

    def _apply_one(self, item: dict[str, Any]) -> bool:
        key = item_key(item)
        if item["version"] <= self.version(key):
            return False
        self._versions[key] = item["version"]
        if item.get("deleted"):
            self.items.pop(key, None)
        else:
            self.items[key] = item
        return True
