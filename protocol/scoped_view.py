"""The exact view of one topic, as somebody with a limited scope may see it.

What a change means to a scope depends on whose the item was before: one that leaves the scope has to be taken
away there, and of one that was never in it nothing may be said. So whose each item is, is kept once a topic,
and serves every scope.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from protocol.items import Item, tombstone
from protocol.principal import Scope

__all__ = ["Moved", "Owners", "owner_of", "replay", "sees", "shown", "shown_changes"]

_VENDOR: Final = b'"vendor_id":"'
_STOCK: Final = "stock:"


class Moved(NamedTuple):
    """A newer item, and whose it was before and is now; None: nobody's, for it is not there."""

    item: Item
    before: str | None
    after: str | None


class Owners:
    """Whose the items of a topic are. Bounded by the items of the topic, tombstones included."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[int, str | None]] = {}
        self._names: dict[str, str] = {}  # a vendor's id once, however many items are its own

    def load(self, items: Iterable[Item]) -> None:
        """Takes what was read of the topic; what is held and newer stays."""
        deque(self.load_steps(items), maxlen=0)

    def load_steps(self, items: Iterable[Item], *, step: int = 5000) -> Iterator[None]:
        """As `load`, with a pause after every `step` items (milliseconds of work)."""
        for number, item in enumerate(items, 1):
            self._take(item)
            if number % step == 0:
                yield

    def apply(self, items: Iterable[Item]) -> list[Moved]:
        """Takes changes; those that are no newer than what is held mean nothing to who was sent that."""
        return [moved for item in items if (moved := self._take(item)) is not None]

    def _take(self, item: Item) -> Moved | None:
        held = self._held.get(item.key)
        if held is not None and held[0] >= item.version:
            return None
        owner = owner_of(item)
        if owner is not None:
            owner = self._names.setdefault(owner, owner)
        self._held[item.key] = (item.version, owner)
        return Moved(item, None if held is None else held[1], owner)


def owner_of(item: Item) -> str | None:
    """The vendor of an exact item, without decoding all of it; None for one that is deleted.

    Inside a JSON text every quote has a backslash before it, so no text can look like the member.
    """
    if item.deleted:
        return None
    start = item.body.find(_VENDOR)
    if start < 0:
        return None
    start += len(_VENDOR)
    return item.body[start : item.body.index(b'"', start)].decode()


def sees(scope: Scope, key: str, owner: str | None) -> bool:
    """Whether an item of that key and owner is within the scope."""
    if owner is None or (scope.vendor_id is not None and owner != scope.vendor_id):
        return False
    return _reaches(scope, key)


def shown(scope: Scope, items: Iterable[Item]) -> list[Item]:
    """Of what was read of a topic, what the scope shows."""
    return [item for item in items if sees(scope, item.key, owner_of(item))]


def shown_changes(scope: Scope, moves: Iterable[Moved]) -> list[Item]:
    """What the scope shows of changes: items, and what has left it as deleted."""
    found: list[Item] = []
    for item, before, after in moves:
        if sees(scope, item.key, after):
            found.append(item)
        elif sees(scope, item.key, before):
            found.append(item if item.deleted else tombstone(item.key, item.version))
    return found


def replay(scope: Scope, changes: Iterable[Sequence[Item]]) -> list[list[Item]] | None:
    """What the scope shows of changes from a log, where nobody knows whose the items were before. None: one
    of them may have left the scope, so that only a snapshot can tell."""
    found: list[list[Item]] = []
    for items in changes:
        visible = []
        for item in items:
            if sees(scope, item.key, owner_of(item)):
                visible.append(item)
            elif _reaches(scope, item.key):
                return None
        found.append(visible)
    return found


def _reaches(scope: Scope, key: str) -> bool:
    """Whether the key alone may be within the scope: stock at a location that is."""
    if scope.locations is None or not key.startswith(_STOCK):
        return True
    return key.rpartition(":")[2] in scope.locations
