"""What the scripts of the topic store answer, and what that means."""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from listeners.errors import LoadLost, StaleTerm, UnknownReign
from protocol.items import Item

__all__ = [
    "Applied",
    "Loading",
    "MustLoad",
    "Opened",
    "Reign",
    "Stored",
    "check_load",
    "check_reign",
    "decode_items",
    "value_of",
]


class Applied(NamedTuple):
    published: int  # messages, one for each topic that changed and each script call
    voided: int  # topics


class Opened(NamedTuple):
    """The topic is loaded; `items` of it live."""

    epoch: str
    seq: int
    items: int


class MustLoad(NamedTuple):
    """The caller is the topic's loader until the lease ends; the epoch is its token."""

    epoch: str


class Loading(NamedTuple):
    """Somebody else loads the topic: ask again after so many ms."""

    retry_ms: int


class Stored(NamedTuple):
    """A topic with its tombstones. Items may be newer than `seq`, never older."""

    epoch: str
    seq: int
    items: list[Item]


class Reign(NamedTuple):
    generation: str
    term: int


def value_of(item: Item, log_id: int = 0) -> bytes:
    """The item as the field of a topic's hash; see scripts/common.lua."""
    return b"%d %s%d %s" % (item.version, b"T" if item.deleted else b"L", log_id, item.body)


def decode_items(fields: Iterable[tuple[bytes, bytes]]) -> list[Item]:
    """The items among the fields of a topic's hash: what `value_of` has made."""
    items = []
    for key, value in fields:
        if not key.startswith(b"@"):
            version, mark, body = value.split(b" ", 2)
            items.append(Item(key.decode("ascii"), int(version), mark[:1] == b"T", body))
    return items


def check_reign(replies: Collection[Any]) -> None:
    """Raises StaleTerm or UnknownReign."""
    if b"stale" in replies:
        raise StaleTerm("another relay reigns: step down")
    if b"unknown" in replies:
        raise UnknownReign("Redis does not know this reign, it may have been restarted: begin again")


def check_load(topic: str, replies: Collection[Any]) -> None:
    """Raises LoadLost."""
    if b"lost" in replies:
        raise LoadLost(f"the load of {topic} was voided or taken over: open it again")
