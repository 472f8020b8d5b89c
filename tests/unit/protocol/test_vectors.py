"""Replays tests/vectors; its README says what they mean."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from protocol.dialects.inventory_v1 import InventoryV1
from protocol.errors import CloseCode, ErrorCode, ProtocolError
from protocol.items import Copy, Item, item_key
from protocol.public_view import PublicView
from protocol.session import CloseWith, Event, Send, Session, SessionLimits, Signal
from protocol.topics import parse_topic
from tests.support.principals import seeing
from tests.unit.protocol.builders import checked

VECTORS = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(__file__).parents[2] / "vectors").glob("*.json"))
}
Step = dict[str, Any]


def of_kind(kind: str) -> pytest.MarkDecorator:
    found = {name: vector for name, vector in VECTORS.items() if kind in vector}
    return pytest.mark.parametrize("vector", found.values(), ids=found)


def items_of(bodies: list[str | Step]) -> list[Item]:
    items: list[Item] = []
    for body in bodies:
        if isinstance(body, str):
            items.append(item_of(body))
        else:
            items += [item_of(body["body"].replace("{n}", str(number))) for number in range(body["repeat"])]
    return items


def item_of(body: str) -> Item:
    decoded = json.loads(body)
    return Item(item_key(decoded), decoded["version"], decoded.get("deleted", False), body.encode())


class Replay:
    """A session and what a hub does for it; `now` stands still."""

    def __init__(self, settings: Step) -> None:
        principal = settings["principal"]
        self.dialect = InventoryV1()
        self.now = datetime.fromisoformat(settings["now"])
        self.session = Session(
            self.dialect,
            limits=SessionLimits(**settings["limits"]),
            principal=None
            if principal is None
            else seeing(principal["name"], exact=principal["may_exact"], public=principal["may_public"]),
        )

    def do(self, step: Step) -> tuple[list[bytes], CloseCode | None]:
        (action,) = step.keys() - {"sends", "parts", "closes", "note"}
        handle: Callable[[Any], list[bytes] | list[Event]] = getattr(self, f"do_{action}")
        sent: list[bytes] = []
        close = None
        for event in handle(step[action]):
            if isinstance(event, bytes):
                sent.append(event)
            elif isinstance(event, Send):
                sent.append(event.payload)
            elif isinstance(event, CloseWith):
                close = event.code
        return sent, close

    def do_welcome(self, of: Step) -> list[bytes]:
        return [self.session.welcome(session=of["session"], heartbeat_s=of["heartbeat_s"], now=self.now)]

    def do_url_topics(self, topics: str) -> list[Event]:
        return self.session.subscribe_on_open(topics.split(","))

    def do_client(self, text: str) -> list[Event]:
        return self.session.receive(text.encode(), now=self.now)

    def do_client_hex(self, data: str) -> list[Event]:
        return self.session.receive(bytes.fromhex(data), now=self.now)

    def do_binary(self, _data: str) -> list[Event]:
        return self.session.receive_binary()

    def do_snapshot(self, of: Step) -> list[bytes]:
        subscription = self.session.subscriptions[of["topic"]]
        subscription.signal(Signal.SNAPSHOT_BEGINS)
        tails = self.dialect.snapshot_tails(of["topic"], of["epoch"], of["seq"], items_of(of["items"]))
        subscription.signal(Signal.SNAPSHOT_ENDS)
        return [self.dialect.snapshot_head(subscription.id) + tail for tail in tails]

    def do_resumed(self, of: Step) -> list[bytes]:
        subscription = self.session.subscriptions[of["topic"]]
        subscription.signal(Signal.RESUMED)
        return [self.dialect.resumed(subscription.id, of["topic"], of["epoch"], of["seq"])]

    def do_delta(self, of: Step) -> list[bytes]:
        items = items_of(of["items"])
        return self.dialect.deltas(of["topic"], of["epoch"], of["previous_seq"], of["seq"], items)

    def do_refuse(self, of: Step) -> list[bytes]:
        error = ProtocolError(ErrorCode(of["code"]), of["message"], retry_after_ms=of["retry_after_ms"])
        payload = self.session.refuse(self.session.subscriptions[of["topic"]], error)
        return [] if payload is None else [payload]

    def do_revoke(self, of: Step) -> list[bytes]:
        payload = self.session.revoke(self.session.subscriptions[of["topic"]], of["reason"])
        return [] if payload is None else [payload]

    def do_heartbeat(self, of: Step) -> list[bytes]:
        return [self.dialect.heartbeat(self.now, of["stale"], of["as_of_ms"])]

    def do_stale(self, _of: Step) -> list[bytes]:
        return [self.dialect.stale(self.now)]

    def do_fresh(self, of: Step) -> list[bytes]:
        return [self.dialect.fresh(of["as_of_ms"])]

    def do_reconnect(self, of: Step) -> list[bytes]:
        return [self.dialect.reconnect(of["after_ms"])]

    def do_auth_expiring(self, of: Step) -> list[bytes]:
        return [self.dialect.auth_expiring(datetime.fromisoformat(of["expires_at"]))]


@of_kind("session")
def test_a_session_sends_exactly_this(vector: Step) -> None:
    replay = Replay(vector["session"])
    for number, step in enumerate(vector["steps"]):
        sent, close = replay.do(step)
        decoded = [checked(payload) for payload in sent]
        if "parts" in step:
            parts = [
                {"seq": message["seq"], "items": len(message["items"]), "bytes": len(payload)}
                for message, payload in zip(decoded, sent, strict=True)
            ]
            assert parts == step["parts"], f"step {number}"
        else:
            assert [payload.decode() for payload in sent] == step["sends"], f"step {number}"
        assert (close.number if close else None) == step.get("closes"), f"step {number}"


@of_kind("copy")
def test_a_copy_holds_exactly_this(vector: Step) -> None:
    copy = Copy()
    epoch, seq, complete = "", 0, False
    for number, step in enumerate(vector["steps"]):
        message = checked(step["server"].encode())
        if message["type"] == "snapshot" and message["part"] == 1:
            copy.reset()
            epoch = message["epoch"]
        copy.apply(message["items"])
        complete = message.get("last", True)
        if complete:
            seq = message["seq"]
        held = {
            "epoch": epoch,
            "seq": seq if complete else None,
            "complete": complete,
            "versions": {key: item["version"] for key, item in copy.items.items()},
        }
        assert held == step["copy"], f"step {number}"


@of_kind("public_view")
def test_the_public_hears_exactly_this(vector: Step) -> None:
    view = PublicView(parse_topic(vector["public_view"]["topic"]), vector["public_view"]["low_stock"])
    for number, step in enumerate(vector["steps"]):
        if "load" in step:
            view.load(items_of(step["load"]))
            heard = view.snapshot()
        else:
            heard = view.apply(items_of(step["apply"]))
        assert [item.body.decode() for item in heard] == step["hears"], f"step {number}"


def test_every_vector_is_replayed() -> None:
    assert len(VECTORS) >= 8
    for name, vector in VECTORS.items():
        assert len({"session", "copy", "public_view"} & vector.keys()) == 1, name
        assert vector["purpose"]
        assert vector["steps"]


def test_every_error_of_a_session_and_every_server_message_is_in_a_vector() -> None:
    steps = [step for vector in VECTORS.values() if "session" in vector for step in vector["steps"]]
    sent = [json.loads(payload) for step in steps for payload in step.get("sends", [])]
    assert {message["type"] for message in sent} == {
        "welcome", "pong", "snapshot", "resumed", "delta", "unsubscribed", "heartbeat", "stale", "fresh",
        "reconnect", "auth_expiring", "error",
    }  # fmt: skip
    assert {message["code"] for message in sent if message["type"] == "error"} >= {
        "bad_message", "too_large", "unknown_type", "unknown_topic", "forbidden", "unauthenticated",
        "too_many_topics", "topic_too_large", "unavailable",
    }  # fmt: skip
