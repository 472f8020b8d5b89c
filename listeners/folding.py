import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import orjson

from listeners.change_log import LogRow
from listeners.parts import LogItem
from protocol.items import InvalidRow, build_item, stock_ids, tombstone
from protocol.topics import KEY_GRAMMAR, TopicKind

__all__ = ["CanaryMark", "Folded", "fold", "folding"]

_is_key: Final = re.compile(KEY_GRAMMAR).fullmatch
# They take about 2 ms.
_ROWS_A_STEP: Final = 500
_ALL_KINDS: Final = frozenset(TopicKind)


class CanaryMark(NamedTuple):
    """A canary row: everything committed before `as_of_ms` (since 1970) is in this batch or before it."""

    as_of_ms: int
    number: int


class _Entry:
    """What a log row says about one key. Its item is built when the first topic wants it, and only once."""

    __slots__ = ("data", "item", "key", "kind", "log_id", "version")

    def __init__(self, log_id: int, kind: str, key: str, version: int, data: dict[str, Any] | None) -> None:
        self.log_id = log_id
        self.kind = kind
        self.key = key
        self.version = version
        self.data = data  # None: a tombstone
        self.item: LogItem | None = None

    def build(self) -> tuple[LogItem, bool]:
        """The item, and whether its row was refused.

        A refused row (a fraction where a number of pieces belongs) is a tombstone here, because whoever
        loads the topic now does not get it either.
        """
        if self.item is not None:
            return self.item, False
        refused = False
        if self.data is None:
            item = tombstone(self.key, self.version)
        else:
            try:
                item = build_item(self.kind, self.data, self.version)
            except InvalidRow:
                item = tombstone(self.key, self.version)
                refused = True
        self.item = LogItem(item, self.log_id)
        return self.item, refused


class Folded:
    """A batch of log rows, by topic and key: for each the newest word, that is the one with the highest id.

    Ids follow the order of commits per key, versions do not always: an INSERT that has waited for a DELETE of
    the same key is newer than its tombstone and has the lower version. Both are sent then, in this order,
    and the store voids the topic; the INSERT alone would be refused by a topic that was loaded in between.
    Between two rows that are alive the version decides: a trigger of the shop that updates the row again
    logs its own update before the one that it answers.
    """

    __slots__ = (
        "_overtaken",
        "_partial",
        "_routes",
        "beat",
        "changed_at_ms",
        "locations",
        "rows",
        "skipped",
        "truncated",
    )

    def __init__(self, feeds: Mapping[str, Collection[str]]) -> None:
        self._partial = {name: kinds for name, kinds in feeds.items() if not set(kinds) >= _ALL_KINDS}
        self._routes: dict[str, dict[str, _Entry]] = {}
        self._overtaken: dict[str, list[_Entry]] = {}  # by topic: of a higher version than what came after
        self.rows = 0  # without markers
        self.skipped = 0  # rows that can not become items, so far
        self.locations: set[str] = set()  # ids of changed locations: what they feed is void
        self.truncated = False  # a table was truncated: everything is void
        self.beat: CanaryMark | None = None
        self.changed_at_ms: int | None = None  # when the oldest of the changes was recorded

    @property
    def topics(self) -> Collection[str]:
        """Everything that these rows concern."""
        return self._routes.keys()

    def changes(self, only: Collection[str] | None = None) -> dict[str, list[LogItem]]:
        """The items of each topic, or of those in `only`; `skipped` counts what turned out to be no item."""
        wanted = self._routes.keys() if only is None else self._routes.keys() & only
        return {topic: [self._log_item(entry) for entry in self._entries(topic)] for topic in wanted}

    def _entries(self, topic: str) -> Iterable[_Entry]:
        return chain(self._overtaken.get(topic, ()), self._routes[topic].values())

    def _log_item(self, entry: _Entry) -> LogItem:
        item, refused = entry.build()
        self.skipped += refused
        return item

    def add(self, row: LogRow) -> None:
        """Rows come in the order of their ids."""
        if row.op == "C":
            data = orjson.loads(row.item or b"")
            self.beat = CanaryMark(data["as_of_ms"], data["beat"])
            return
        if row.op == "T":
            self.truncated = True
            return
        self.rows += 1
        if self.changed_at_ms is None or row.recorded_at_ms < self.changed_at_ms:
            self.changed_at_ms = row.recorded_at_ms
        if not (row.kind and row.item and self._add_row(row, row.kind, orjson.loads(row.item))):
            self.skipped += 1

    def _add_row(self, row: LogRow, kind: str, data: dict[str, Any]) -> bool:
        if kind == "stock":
            return self._add_stock(row, data)
        if kind == "product":
            return self._add_product(row, data)
        location = _id(data, "location_id")
        if location:
            self.locations.add(location)
        return location is not None

    def _add_stock(self, row: LogRow, data: dict[str, Any]) -> bool:
        ids = stock_ids(data)
        if ids is None:
            return False
        product, location, vendor = ids
        key = f"stock:{product}:{location}"
        if row.location_active is not None:
            data["location_active"] = row.location_active
        here = f"location:{location}"
        self._route(row, "stock", key, data, (f"product:{product}", here, f"vendor:{vendor}"))
        if row.product is not None and row.product_version is not None and row.op != "D":
            # Looked up, not logged: no id says when it was written, the version has to.
            entry = _Entry(0, "product", f"product:{product}", row.product_version, orjson.loads(row.product))
            self._routes.setdefault(here, {})[entry.key] = entry
        return True

    def _add_product(self, row: LogRow, data: dict[str, Any]) -> bool:
        product, vendor = _id(data, "product_id"), _id(data, "vendor_id")
        if not (product and vendor):
            return False
        key = f"product:{product}"
        locations = [f"location:{location}" for location in row.locations or () if _is_key(location)]
        self._route(row, "product", key, data, (key, f"vendor:{vendor}", *locations))
        return True

    def _route(self, row: LogRow, kind: str, key: str, data: dict[str, Any], topics: Iterable[str]) -> None:
        version = row.version or 0
        routes = self._routes
        if row.gone:
            gone = _Entry(row.id, kind, key, version, None)
            for topic in filter(_is_topic, row.gone):
                routes.setdefault(topic, {})[key] = gone
        entry = _Entry(row.id, kind, key, version, None if row.op == "D" else data)
        feeds = self._partial.get(row.source) if row.source else None
        for topic in topics:
            if feeds is not None and topic.partition(":")[0] not in feeds:
                continue
            items = routes.get(topic)
            if items is None:
                routes[topic] = {key: entry}
                continue
            held = items.get(key)
            if held is not None and held.version > version:
                if held.data is not None and entry.data is not None:
                    continue
                self._overtaken.setdefault(topic, []).append(held)
            items[key] = entry


def _id(data: dict[str, Any], name: str) -> str | None:
    value = data.get(name)
    return value if isinstance(value, str) and _is_key(value) else None


def _is_topic(name: str) -> bool:
    return _is_key(name.partition(":")[2]) is not None


def fold(rows: Iterable[LogRow], *, feeds: Mapping[str, Collection[str]] = MappingProxyType({})) -> Folded:
    """Group rows by topic and key; the highest id wins, in whatever order the rows come.

    `feeds`: the kinds of topics that a source feeds, for sources that do not feed all.
    """
    folded = Folded(feeds)
    for _ in folding(rows, folded):
        pass
    return folded


def folding(rows: Iterable[LogRow], folded: Folded) -> Iterator[None]:
    """Fold so many rows at a step that a loop that serves others as well is not held up for long."""
    for number, row in enumerate(sorted(rows, key=_log_id), 1):
        folded.add(row)
        if number % _ROWS_A_STEP == 0:
            yield


def _log_id(row: LogRow) -> int:
    return row.id
