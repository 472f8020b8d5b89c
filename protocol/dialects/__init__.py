"""A dialect is how one client library wants to hear what the gateway has to say.

The session decides, a dialect only words it: it turns bytes into the messages of `protocol.messages` and
answers, positions and items into payloads (WebSocket text, without the frame's header).
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

from protocol.errors import ProtocolError
from protocol.items import Item
from protocol.messages import ClientMessage, SessionLimits

__all__ = ["DELTA_ITEMS_BYTES", "MAX_PAYLOAD_BYTES", "Dialect"]

MAX_PAYLOAD_BYTES: Final = 65_536
# What one delta holds of items, a byte added to each body for the comma: the rest is for the head.
DELTA_ITEMS_BYTES: Final = 63 * 1024


class Dialect(Protocol):
    """`topic` is the topic's name throughout; moments are datetimes, `as_of_ms` milliseconds since 1970."""

    @property
    def subprotocol(self) -> str:
        """What the handshake's answer names."""

    def split(self, data: bytes) -> Sequence[bytes]:
        """The messages of one WebSocket message; some dialects send several at once."""

    def decode(self, data: bytes) -> ClientMessage:
        """Raises ProtocolError; FatalMessage where the connection must close with 4400 after the error."""

    def welcome(
        self, *, session: str, principal: str | None, heartbeat_s: float, now: datetime, limits: SessionLimits
    ) -> bytes: ...

    def authenticated(self, id: str | None, principal: str, expires_at: datetime) -> bytes: ...  # noqa: A002 - the wire's own name

    def error(self, error: ProtocolError) -> bytes: ...

    def pong(self, id: str | None, now: datetime) -> bytes: ...  # noqa: A002 - the wire's own name

    def unsubscribed(self, id: str | None, topic: str, reason: str | None = None) -> bytes: ...  # noqa: A002 - as above

    def resumed(self, id: str | None, topic: str, epoch: str, seq: int) -> bytes: ...  # noqa: A002 - as above

    def published(self, id: str | None, results: Sequence[dict[str, Any]]) -> bytes: ...  # noqa: A002 - as above

    def heartbeat(self, now: datetime, stale: bool, as_of_ms: int | None) -> bytes: ...

    def stale(self, since: datetime) -> bytes: ...

    def fresh(self, as_of_ms: int) -> bytes: ...

    def reconnect(self, after_ms: int) -> bytes: ...

    def auth_expiring(self, expires_at: datetime) -> bytes: ...

    def deltas(
        self, topic: str, epoch: str, previous_seq: int, seq: int, items: Iterable[Item]
    ) -> list[bytes]:
        """Payloads of at most MAX_PAYLOAD_BYTES, for every subscriber of the view alike; none for no items.

        All but the last carry `previous_seq`: a copy that has applied only some of them is not at `seq`.
        Items within DELTA_ITEMS_BYTES are one payload.
        """

    def snapshot_head(self, id: str | None) -> bytes:  # noqa: A002 - the wire's own name
        """What is a client's own in a snapshot payload, which is this plus a tail."""

    def snapshot_tails(self, topic: str, epoch: str, seq: int, items: Iterable[Item]) -> list[bytes]:
        """The whole snapshot, at least one part, tombstones left out; shared by all clients."""

    def snapshot_groups(self, items: Iterable[Item]) -> Iterator[list[Item]]:
        """Cuts items into what one tail holds, tombstones left out; nothing for no live items."""

    def snapshot_tail(
        self, topic: str, epoch: str, seq: int, part: int, last: bool, items: Iterable[Item]
    ) -> bytes:
        """One part of a snapshot that is read page by page: number `part` (from 1) of what snapshot_groups
        cut. The last one may be empty.
        """
