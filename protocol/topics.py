"""Topics and their grammar: `product:<id>`, `location:<id>`, `vendor:<id>`."""

import re
from enum import StrEnum
from typing import Final, NamedTuple

from protocol.errors import ErrorCode, ProtocolError

__all__ = ["KEY_GRAMMAR", "Topic", "TopicKind", "is_key", "parse_topic"]

KEY_GRAMMAR: Final = r"[A-Za-z0-9._-]{1,64}"
_KEY = re.compile(KEY_GRAMMAR)


class TopicKind(StrEnum):
    PRODUCT = "product"
    LOCATION = "location"
    VENDOR = "vendor"


_TOPIC = re.compile(rf"({'|'.join(TopicKind)}):({KEY_GRAMMAR})")


class Topic(NamedTuple):
    """What a client subscribes to; `str(topic)` is its name on the wire."""

    kind: TopicKind
    id: str

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.id}"


def is_key(text: str) -> bool:
    """Whether `text` may be a product, location or vendor id of the contract."""
    return _KEY.fullmatch(text) is not None


def parse_topic(name: str) -> Topic:
    """The topic of that name. Raises ProtocolError `unknown_topic` for anything outside the grammar."""
    match = _TOPIC.fullmatch(name)
    if match is None:
        raise ProtocolError(
            ErrorCode.UNKNOWN_TOPIC,
            "a topic is product:<id>, location:<id> or vendor:<id>, with an id of 1 to 64 of A-Z a-z 0-9 ._-",
            # A name out of a URL may hold lone surrogates, which have no UTF-8.
            topic=name[:128].encode("utf-8", "replace").decode(),
        )
    return Topic(TopicKind(match[1]), match[2])
