"""What travels on the bus between the relay, the topic store's scripts and the replicas.

A text of lines, so that the store's Lua scripts build it by concatenation and a replica splits it without
parsing the items: their bodies are JSON, which never contains a raw line break, and the `exact` view
sends them as they are.

    D <topic> <epoch> <seq> <changed_at>    a change; then one line an item: <key> <version> <L<id>|T> <body>
    R <topic> <epoch> <seq>                 the topic was loaded anew under this epoch
    V <topic>                               the topic is void: load it again
    C <generation> <as_of> <beat>           canary: what was committed before as_of has been published
    G <generation>                          a new generation: every topic of the bucket is void

The `<id>` after L is the store's own and may be absent. `changed_at` and `as_of` are milliseconds since 1970,
taken from the clock of Postgres.
"""

from dataclasses import dataclass
from typing import NamedTuple

from protocol.items import Item

__all__ = [
    "Beat",
    "Changed",
    "Envelope",
    "MalformedEnvelope",
    "NewGeneration",
    "Position",
    "Ready",
    "Voided",
    "decode_envelope",
    "encode_item",
]


class Position(NamedTuple):
    """How far a topic has been applied: `seq` counts only within one `epoch`."""

    epoch: str
    seq: int


class MalformedEnvelope(ValueError):
    """A message on the bus that no version of ours has sent."""


@dataclass(frozen=True, slots=True)
class Changed:
    topic: str
    epoch: str
    seq: int
    changed_at_ms: int
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Ready:
    topic: str
    epoch: str
    seq: int


@dataclass(frozen=True, slots=True)
class Voided:
    topic: str


@dataclass(frozen=True, slots=True)
class Beat:
    generation: str
    as_of_ms: int
    number: int


@dataclass(frozen=True, slots=True)
class NewGeneration:
    generation: str


Envelope = Changed | Ready | Voided | Beat | NewGeneration


def encode_item(item: Item) -> bytes:
    """The item's line, without the line break."""
    return b"%s %d %s %s" % (item.key.encode(), item.version, b"T" if item.deleted else b"L", item.body)


def decode_envelope(data: bytes) -> Envelope:
    """Raises MalformedEnvelope."""
    head, *lines = data.split(b"\n")
    try:
        match head.decode("ascii").split(" "):
            case ["D", topic, epoch, seq, changed_at]:
                return Changed(topic, epoch, int(seq), int(changed_at), tuple(_decode_items(lines)))
            case ["R", topic, epoch, seq]:
                return Ready(topic, epoch, int(seq))
            case ["V", topic]:
                return Voided(topic)
            case ["C", generation, as_of, beat]:
                return Beat(generation, int(as_of), int(beat))
            case ["G", generation]:
                return NewGeneration(generation)
    except ValueError as error:
        raise MalformedEnvelope(f"{head[:80]!r}: {error}") from error
    raise MalformedEnvelope(f"unknown form {head[:80]!r}")


def _decode_items(lines: list[bytes]) -> list[Item]:
    """In one comprehension: this is done for every item by every replica that follows the topic."""
    return [
        Item(key.decode("ascii"), int(version), mark == b"T", body)
        for key, version, mark, body in [line.split(b" ", 3) for line in lines]
    ]
