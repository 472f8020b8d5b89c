"""What subscribers hold against what the database says, and how old changes are when they arrive."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import orjson

from load.client import Client, connect
from load.waiting import until

__all__ = ["Decoder", "Subscriber", "differences", "subscribers", "table_copy"]

SNAPSHOT_S: Final = 60.0
# Enough to tell apart which frame of which topic it is.
_HEAD_BYTES: Final = 256
_REMEMBERED: Final = 64

Copy = dict[str, tuple[int, int]]  # product and location: version and on_hand


class Message(NamedTuple):
    kind: str
    complete: bool  # of a snapshot: its last part
    first: bool
    items: tuple[tuple[str, int, int | None], ...]  # stock: key, version, on_hand; None: deleted
    oldest_at: float | None  # of the items, in s since 1970


class Decoder:
    """Decodes a frame once, whoever else gets the same bytes: ten subscribers cost little more than one."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[bytes, Message]] = {}

    def decode(self, payload: bytes) -> Message:
        """Raises RuntimeError if the gateway refuses something."""
        head = payload[:_HEAD_BYTES]
        known = self._known.get(head)
        if known is not None and known[0] == payload:
            return known[1]
        message = _decoded(orjson.loads(payload))
        if len(self._known) == _REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[head] = (payload, message)
        return message


def _decoded(message: Mapping[str, Any]) -> Message:
    kind = message["type"]
    if kind == "error":
        raise RuntimeError(f"the gateway refuses: {message}")
    if kind not in ("snapshot", "delta"):
        return Message(kind, False, False, (), None)
    stock = [item for item in message["items"] if item["kind"] == "stock"]
    items = tuple(
        (f"{item['product_id']}:{item['location_id']}", item["version"], item.get("on_hand"))
        for item in stock
    )
    times = [at for item in stock if (at := item.get("updated_at"))]
    oldest = datetime.fromisoformat(min(times)).timestamp() if kind == "delta" and times else None
    return Message(kind, message.get("last", False), message.get("part") == 1, items, oldest)


class Subscriber:
    """One client's copy, kept by the rule of the contract: within an epoch the higher version counts."""

    def __init__(self, decoder: Decoder) -> None:
        self._copy: Copy = {}
        self._unapplied: list[Message] = []
        self.snapshots = self.deltas = self.items = self.bytes = self.stale = 0
        self.lag_s: list[float] = []  # of each delta, from when the oldest of its rows was written
        self.arrived: list[float] = []  # s of `time.monotonic`
        self.connection: Client | None = None
        self._decoder = decoder

    def on_text(self, payload: bytes, at: float, /) -> None:
        message = self._decoder.decode(payload)
        if message.kind == "stale":
            self.stale += 1
        if message.kind == "delta":
            self.deltas += 1
            self.items += len(message.items)
            self.bytes += len(payload)
            self.arrived.append(at)
            if message.oldest_at is not None:
                self.lag_s.append(time.time() - message.oldest_at)
        elif message.kind == "snapshot":
            self.snapshots += message.complete
        self._unapplied.append(message)

    @property
    def copy(self) -> Copy:
        """Applied when somebody looks: while it is measured, the machine is the gateway's."""
        for message in self._unapplied:
            self._apply(message)
        self._unapplied.clear()
        return self._copy

    def _apply(self, message: Message) -> None:
        copy = self._copy
        if message.first:
            copy.clear()
        for key, version, on_hand in message.items:
            held = copy.get(key)
            if held is None or held[0] < version:
                copy[key] = (version, -1 if on_hand is None else on_hand)


async def subscribers(url: str, topics: Sequence[str], count: int) -> list[Subscriber]:
    """`count` clients, each of all the topics, with their snapshots. Raises TimeoutError, OSError."""
    decoder = Decoder()
    found = [Subscriber(decoder) for _ in range(count)]
    for each in found:
        each.connection = await connect(url, each.on_text)
        each.connection.subscribe(topics)
    await until(lambda: all(each.snapshots >= len(topics) for each in found), timeout_s=SNAPSHOT_S)
    return found


async def table_copy(connection: Any, location: str) -> Copy:
    """What a subscriber of the location has to hold."""
    rows = await connection.fetch(
        "SELECT product_id || ':' || location_id, version, on_hand FROM inventory WHERE location_id = $1",
        location,
    )
    return {key: (version, on_hand) for key, version, on_hand in rows}


def differences(held: Copy, truth: Copy) -> int:
    """Rows that a copy lacks, has otherwise, or has beyond those of the table. Tombstones are none."""
    live = {key: value for key, value in held.items() if value[1] >= 0}
    return sum(live.get(key) != value for key, value in truth.items()) + len(live.keys() - truth.keys())
