"""Section 3 of the contract: what the native dialect sends, and how it cuts what is too large."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.dialects import DELTA_ITEMS_BYTES, MAX_PAYLOAD_BYTES, Dialect
from protocol.dialects.inventory_v1 import InventoryV1
from protocol.errors import ErrorCode, ProtocolError
from protocol.items import MAX_BODY_BYTES, Item, tombstone
from protocol.messages import SessionLimits
from tests.unit.protocol.builders import NOW, checked, product, stock

DIALECT: Dialect = InventoryV1()
AS_OF_MS = 1_795_341_600_123
AS_OF = "2026-11-22T10:00:00.123Z"
LONGEST_TOPIC = "location:" + "L" * 64
LONGEST_EPOCH = "\x01" * 64
HIGHEST = 2**53 - 1
# As JSON these are the longest ids of 64 characters: an escape of six bytes each; four bytes of UTF-8 each.
WORST_IDS = [None, "", "s1", "\x01" * 64, "\U0001f4a1" * 64, '"\\' * 32]

SIZES = st.lists(st.integers(0, MAX_BODY_BYTES - 400), max_size=12)


def of_size(number: int, size: int) -> Item:
    """A product whose body is about `size` bytes, within what build_item allows."""
    item = product(f"P{number}", number + 1, name="n" * size)
    assert len(item.body) <= MAX_BODY_BYTES
    return item


def bodies(payloads: Sequence[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(item).encode() for payload in payloads for item in payload["items"]]


def same_items(payloads: Sequence[dict[str, Any]], items: Sequence[Item]) -> bool:
    return bodies(payloads) == [json.dumps(json.loads(item.body)).encode() for item in items]


class TestSingleMessages:
    @pytest.mark.parametrize(
        ("payload", "message"),
        [
            (DIALECT.pong("p1", NOW), {"type": "pong", "id": "p1", "time": AS_OF}),
            (
                DIALECT.authenticated("a1", "till", NOW),
                {"type": "authenticated", "id": "a1", "principal": "till", "expires_at": AS_OF},
            ),
            (
                DIALECT.resumed("s1", "product:A", "e", 41),
                {"type": "resumed", "id": "s1", "topic": "product:A", "epoch": "e", "seq": 41},
            ),
            (DIALECT.unsubscribed(None, "x"), {"type": "unsubscribed", "topic": "x"}),
            (
                DIALECT.unsubscribed("u1", "vendor:V", "scope_changed"),
                {"type": "unsubscribed", "id": "u1", "topic": "vendor:V", "reason": "scope_changed"},
            ),
            (DIALECT.published("o1", [{"a": 1}]), {"type": "published", "id": "o1", "results": [{"a": 1}]}),
            (
                DIALECT.heartbeat(NOW, False, AS_OF_MS),
                {"type": "heartbeat", "time": AS_OF, "stale": False, "as_of": AS_OF},
            ),
            (DIALECT.heartbeat(NOW, True, None), {"type": "heartbeat", "time": AS_OF, "stale": True}),
            (DIALECT.stale(NOW), {"type": "stale", "since": AS_OF}),
            (DIALECT.fresh(AS_OF_MS), {"type": "fresh", "as_of": AS_OF}),
            (DIALECT.reconnect(3120), {"type": "reconnect", "after_ms": 3120}),
            (DIALECT.auth_expiring(NOW), {"type": "auth_expiring", "expires_at": AS_OF}),
        ],
    )
    def test_say_what_the_contract_has(self, payload: bytes, message: dict[str, Any]) -> None:
        assert checked(payload) == message

    def test_times_are_utc_wherever_the_server_stands(self) -> None:
        elsewhere = NOW.astimezone(datetime.now(UTC).astimezone().tzinfo) + timedelta(0)
        assert checked(DIALECT.pong(None, elsewhere))["time"] == AS_OF

    @pytest.mark.parametrize(("heartbeat_s", "text"), [(20, b"20,"), (20.0, b"20,"), (0.5, b"0.5,")])
    def test_a_whole_heartbeat_is_an_integer(self, heartbeat_s: float, text: bytes) -> None:
        limits = SessionLimits(max_message_bytes=1, max_topics=2)
        welcome = DIALECT.welcome(
            session="c", principal=None, heartbeat_s=heartbeat_s, now=NOW, limits=limits
        )
        assert b'"heartbeat_s":' + text in welcome
        assert checked(welcome)["limits"] == {"max_message_bytes": 1, "max_topics": 2}

    @pytest.mark.parametrize("code", ErrorCode)
    def test_errors_say_only_what_they_know(self, code: ErrorCode) -> None:
        plain = checked(DIALECT.error(ProtocolError(code, "do this")))
        assert set(plain) - {"retry_after_ms"} == {"type", "code", "message"}
        assert ("retry_after_ms" in plain) is (code is ErrorCode.UNAVAILABLE)
        error = ProtocolError(code, "do this", id="", topic="product:A", retry_after_ms=0)
        assert checked(DIALECT.error(error)) == {
            "type": "error",
            "id": "",
            "topic": "product:A",
            "code": code.value,
            "message": "do this",
            "retry_after_ms": 0,
        }

    def test_the_subprotocol(self) -> None:
        assert DIALECT.subprotocol == "inventory.v1"

    def test_a_frame_is_one_message(self) -> None:
        assert list(DIALECT.split(b"{}\n{}")) == [b"{}\n{}"]


class TestDeltas:
    def test_carry_the_bodies_as_they_are(self) -> None:
        items = [stock("A", "L1", 17), tombstone("stock:A:L2", 19), product("A", 12)]
        (payload,) = DIALECT.deltas("product:A", "e", 7, 8, items)
        assert payload.endswith(b'"items":[%s]}' % b",".join(item.body for item in items))
        decoded = checked(payload)
        del decoded["items"]
        assert decoded == {"type": "delta", "topic": "product:A", "epoch": "e", "seq": 8}

    def test_of_nothing_are_none(self) -> None:
        assert DIALECT.deltas("product:A", "e", 7, 8, []) == []

    @given(SIZES)
    def test_all_parts_but_the_last_carry_the_previous_seq(self, sizes: list[int]) -> None:
        items = [of_size(number, size) for number, size in enumerate(sizes)]
        payloads = DIALECT.deltas(LONGEST_TOPIC, LONGEST_EPOCH, HIGHEST - 1, HIGHEST, iter(items))
        assert all(len(payload) <= MAX_PAYLOAD_BYTES for payload in payloads)
        decoded = [checked(payload) for payload in payloads]
        assert same_items(decoded, items)
        assert all(part["items"] for part in decoded)
        assert [part["seq"] for part in decoded] == [HIGHEST - 1] * (len(decoded) - 1) + [HIGHEST] * bool(
            decoded
        )

    def test_one_holds_as_much_as_the_dialect_promises(self) -> None:
        items = [of_size(1, MAX_BODY_BYTES - 400)]
        items.append(of_size(2, DELTA_ITEMS_BYTES - len(items[0].body) - len(of_size(2, 0).body) - 2))
        assert sum(len(item.body) + 1 for item in items) == DELTA_ITEMS_BYTES
        (payload,) = DIALECT.deltas(LONGEST_TOPIC, LONGEST_EPOCH, HIGHEST - 1, HIGHEST, items)
        assert len(payload) <= MAX_PAYLOAD_BYTES
        items[1] = of_size(2, len(json.loads(items[1].body)["name"]) + 1)
        assert len(DIALECT.deltas(LONGEST_TOPIC, LONGEST_EPOCH, HIGHEST - 1, HIGHEST, items)) == 2

    def test_are_cut_no_more_than_needed(self) -> None:
        items = [of_size(number, 1_000) for number in range(100)]
        payloads = DIALECT.deltas("vendor:V", "e", 1, 2, items)
        assert len(payloads) == 2
        assert len(payloads[0]) > MAX_PAYLOAD_BYTES - 3_000


class TestSnapshots:
    def test_are_a_head_of_the_clients_own_and_a_tail_for_all(self) -> None:
        items = [product("A", 12), stock("A", "L1", 17)]
        (tail,) = DIALECT.snapshot_tails("product:A", "e", 7, items)
        assert tail.startswith(b'"topic":')
        assert tail.endswith(b'"items":[%s]}' % b",".join(item.body for item in items))
        head = {"type": "snapshot", "topic": "product:A", "epoch": "e", "seq": 7, "part": 1, "last": True}
        for request_id in WORST_IDS:
            decoded = checked(DIALECT.snapshot_head(request_id) + tail)
            assert same_items([decoded], items)
            del decoded["items"]
            assert decoded == (head if request_id is None else head | {"id": request_id})

    @pytest.mark.parametrize("items", [[], [tombstone("stock:A:L1", 3)]])
    def test_of_nothing_have_one_empty_part(self, items: list[Item]) -> None:
        (tail,) = DIALECT.snapshot_tails("product:A", "e", 0, items)
        decoded = checked(DIALECT.snapshot_head(None) + tail)
        assert (decoded["part"], decoded["last"], decoded["items"]) == (1, True, [])

    def test_leave_tombstones_out(self) -> None:
        items = [tombstone("stock:A:L1", 3), stock("A", "L2", 1), tombstone("product:A", 9)]
        (tail,) = DIALECT.snapshot_tails("product:A", "e", 0, items)
        assert same_items([checked(DIALECT.snapshot_head(None) + tail)], items[1:2])

    @given(SIZES, st.sampled_from(WORST_IDS))
    def test_are_numbered_parts_within_the_limit(self, sizes: list[int], request_id: str | None) -> None:
        items = [of_size(number, size) for number, size in enumerate(sizes)]
        tails = DIALECT.snapshot_tails(LONGEST_TOPIC, LONGEST_EPOCH, HIGHEST, items)
        payloads = [DIALECT.snapshot_head(request_id) + tail for tail in tails]
        assert all(len(payload) <= MAX_PAYLOAD_BYTES for payload in payloads)
        parts = [checked(payload) for payload in payloads]
        assert same_items(parts, items)
        assert [part["part"] for part in parts] == list(range(1, len(parts) + 1))
        assert [part["last"] for part in parts] == [False] * (len(parts) - 1) + [True]

    @given(SIZES)
    def test_page_by_page_are_the_same(self, sizes: list[int]) -> None:
        items = [of_size(number, size) for number, size in enumerate(sizes)]
        at_once = DIALECT.snapshot_tails("vendor:V", "e", 7, items)
        groups = list(DIALECT.snapshot_groups([*items, tombstone("product:P0", HIGHEST)])) or [[]]
        tails = [
            DIALECT.snapshot_tail("vendor:V", "e", 7, part, part == len(groups), group)
            for part, group in enumerate(groups, 1)
        ]
        assert tails == at_once

    def test_a_part_of_the_highest_number_still_fits(self) -> None:
        (group,) = DIALECT.snapshot_groups([of_size(1, MAX_BODY_BYTES - 400), of_size(2, 14_500)])
        tail = DIALECT.snapshot_tail(LONGEST_TOPIC, LONGEST_EPOCH, HIGHEST, 10**9, False, group)
        assert MAX_PAYLOAD_BYTES - 1_500 < len(DIALECT.snapshot_head("\x01" * 64) + tail) <= MAX_PAYLOAD_BYTES
