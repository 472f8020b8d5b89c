"""What a topic keeps for those who may see only part of it."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from protocol.envelope import Changed, Position
from protocol.principal import Scope
from protocol.scoped_view import Moved, Owners, replay

__all__ = ["Scoping", "scope_tag", "seen_of", "wire_epoch", "without_scope"]

# Not among the characters of an epoch.
_SEPARATOR = "~"


class Scoping:
    """Whose the items of one topic are (protocol.scoped_view), from a read of it on.

    Made before the read; changes that come meanwhile are collected until conclude().
    """

    def __init__(self) -> None:
        self.owners = Owners()
        self.known = False
        self._collected: list[Changed] = []

    def conclude(self) -> None:
        """All that was read is in `owners`."""
        self.known = True
        for message in self._collected:
            self.owners.apply(message.items)
        self._collected = []

    def take(self, message: Changed) -> list[Moved]:
        """What a change means to the scopes; nothing while nobody has a snapshot of theirs."""
        if not self.known:
            self._collected.append(message)
            return []
        return self.owners.apply(message.items)


def seen_of(changes: Sequence[Changed], scope: Scope) -> list[Changed] | None:
    """What a scope shows of changes from a log; None: only a snapshot can tell."""
    seen = replay(scope, [change.items for change in changes])
    if seen is None:
        return None
    return [replace(change, items=tuple(items)) for change, items in zip(changes, seen, strict=True)]


@lru_cache(maxsize=4096)  # each subscription keeps it: one object for all of a topic and scope
def wire_epoch(epoch: str, scope: Scope | None) -> str:
    """What clients of this scope are told as the epoch: another scope is another map, and a client can not go
    on from a copy of one in the other."""
    return epoch if scope is None else f"{epoch}{_SEPARATOR}{scope_tag(scope)}"


def without_scope(position: Position, scope: Scope | None) -> Position:
    """A position that a client of this scope goes on from, as the topic knows it; one of another scope stays
    as it is, which is no epoch of the topic."""
    epoch, separator, tag = position.epoch.partition(_SEPARATOR)
    if separator and scope is not None and tag == scope_tag(scope):
        return Position(epoch, position.seq)
    if not separator and scope is not None:
        return Position(f"{epoch}{_SEPARATOR}", position.seq)
    return position


@lru_cache(maxsize=1024)
def scope_tag(scope: Scope) -> str:
    """The same on every replica. It only keeps honest clients from mixing copies: what a client is sent is
    filtered by its own scope, whatever it says."""
    locations = None if scope.locations is None else sorted(scope.locations)
    return hashlib.blake2b(repr((scope.vendor_id, locations)).encode(), digest_size=6).hexdigest()
