"""The native dialect. Bodies of items are joined as they are: nothing is encoded twice."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import orjson

from protocol.dialects import DELTA_ITEMS_BYTES, MAX_PAYLOAD_BYTES
from protocol.errors import ProtocolError
from protocol.items import Item, split_by_size
from protocol.messages import ClientMessage, SessionLimits
from protocol.parsing import parse_client_message
from protocol.timestamps import format_time, from_unix_ms

__all__ = ["InventoryV1"]

_SNAPSHOT: Final = b'{"type":"snapshot",'
# An id of 64 characters is at most 386 bytes of JSON: two quotes and, for a control character, \u00XX each.
_HEAD_ROOM: Final = len(_SNAPSHOT) + len(b'"id":,') + 2 + 64 * 6
# `"topic":"location:<64>","epoch":"<64 escaped>","seq":<16>,"part":<10>,"last":false,"items":[]}` and commas.
_FRAME_ROOM: Final = 640
_SNAPSHOT_ITEMS_BYTES: Final = MAX_PAYLOAD_BYTES - _HEAD_ROOM - _FRAME_ROOM


class InventoryV1:
    """Implements protocol.dialects.Dialect without state: one instance serves every connection."""

    subprotocol: Final = "inventory.v1"

    def split(self, data: bytes) -> Sequence[bytes]:
        return (data,)

    def decode(self, data: bytes) -> ClientMessage:
        return parse_client_message(data)

    # The answers to one client.

    def welcome(
        self, *, session: str, principal: str | None, heartbeat_s: float, now: datetime, limits: SessionLimits
    ) -> bytes:
        return orjson.dumps(
            {
                "type": "welcome",
                "protocol": self.subprotocol,
                "session": session,
                "principal": principal,
                "heartbeat_s": int(heartbeat_s) if heartbeat_s == int(heartbeat_s) else heartbeat_s,
                "time": format_time(now),
                "limits": limits.model_dump(),
            }
        )

    def authenticated(self, id: str | None, principal: str, expires_at: datetime) -> bytes:  # noqa: A002 - the wire's own name
        return _message("authenticated", id, principal=principal, expires_at=format_time(expires_at))

    def error(self, error: ProtocolError) -> bytes:
        optional: dict[str, Any] = {}
        if error.topic is not None:
            optional["topic"] = error.topic
        optional |= {"code": error.code, "message": error.message}
        if error.retry_after_ms is not None:
            optional["retry_after_ms"] = error.retry_after_ms
        return _message("error", error.id, **optional)

    def pong(self, id: str | None, now: datetime) -> bytes:  # noqa: A002 - the wire's own name
        return _message("pong", id, time=format_time(now))

    def unsubscribed(self, id: str | None, topic: str, reason: str | None = None) -> bytes:  # noqa: A002 - the wire's own name
        optional = {} if reason is None else {"reason": reason}
        return _message("unsubscribed", id, topic=topic, **optional)

    def resumed(self, id: str | None, topic: str, epoch: str, seq: int) -> bytes:  # noqa: A002 - the wire's own name
        return _message("resumed", id, topic=topic, epoch=epoch, seq=seq)

    def published(self, id: str | None, results: Sequence[dict[str, Any]]) -> bytes:  # noqa: A002 - the wire's own name
        return _message("published", id, results=list(results))

    # What concerns the whole connection.

    def heartbeat(self, now: datetime, stale: bool, as_of_ms: int | None) -> bytes:
        known = {} if as_of_ms is None else {"as_of": from_unix_ms(as_of_ms)}
        return orjson.dumps({"type": "heartbeat", "time": format_time(now), "stale": stale} | known)

    def stale(self, since: datetime) -> bytes:
        return _message("stale", None, since=format_time(since))

    def fresh(self, as_of_ms: int) -> bytes:
        return _message("fresh", None, as_of=from_unix_ms(as_of_ms))

    def reconnect(self, after_ms: int) -> bytes:
        return _message("reconnect", None, after_ms=after_ms)

    def auth_expiring(self, expires_at: datetime) -> bytes:
        return _message("auth_expiring", None, expires_at=format_time(expires_at))

    # What concerns everybody who watches a topic.

    def deltas(
        self, topic: str, epoch: str, previous_seq: int, seq: int, items: Iterable[Item]
    ) -> list[bytes]:
        groups = [[item.body for item in group] for group in split_by_size(items, DELTA_ITEMS_BYTES)]
        prefix = b'{"type":"delta",%s,"seq":' % _name(topic, epoch)
        payloads = [b'%s%d,"items":[%s]}' % (prefix, previous_seq, b",".join(group)) for group in groups[:-1]]
        payloads += [b'%s%d,"items":[%s]}' % (prefix, seq, b",".join(group)) for group in groups[-1:]]
        return payloads

    def snapshot_head(self, id: str | None) -> bytes:  # noqa: A002 - the wire's own name
        return _SNAPSHOT if id is None else b'%s"id":%s,' % (_SNAPSHOT, orjson.dumps(id))

    def snapshot_tails(self, topic: str, epoch: str, seq: int, items: Iterable[Item]) -> list[bytes]:
        groups = list(self.snapshot_groups(items)) or [[]]
        return [
            self.snapshot_tail(topic, epoch, seq, part, part == len(groups), group)
            for part, group in enumerate(groups, 1)
        ]

    def snapshot_groups(self, items: Iterable[Item]) -> Iterator[list[Item]]:
        return split_by_size((item for item in items if not item.deleted), _SNAPSHOT_ITEMS_BYTES)

    def snapshot_tail(
        self, topic: str, epoch: str, seq: int, part: int, last: bool, items: Iterable[Item]
    ) -> bytes:
        bodies = b",".join([item.body for item in items])
        flag = b"true" if last else b"false"
        return b'%s,"seq":%d,"part":%d,"last":%s,"items":[%s]}' % (
            _name(topic, epoch),
            seq,
            part,
            flag,
            bodies,
        )


def _message(type_: str, id_: str | None, **fields: Any) -> bytes:
    head: dict[str, Any] = {"type": type_} if id_ is None else {"type": type_, "id": id_}
    return orjson.dumps(head | fields)


def _name(topic: str, epoch: str) -> bytes:
    return b'"topic":%s,"epoch":%s' % (orjson.dumps(topic), orjson.dumps(epoch))
