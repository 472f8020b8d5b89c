"""`auth` on a connection: who it may become, and what it keeps."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from protocol.dialects.inventory_v1 import InventoryV1
from protocol.principal import EVERY, Permission, Principal
from protocol.session import Authenticate, Event, Leave, Send, Session, SessionLimits, Subscribe
from protocol.subscription import SubscriptionState

NOW = datetime(2026, 11, 22, tzinfo=UTC)
READ = frozenset({Permission.READ_EXACT, Permission.READ_PUBLIC})


def till(**changes: Any) -> Principal:
    usual: dict[str, Any] = {
        "name": "till",
        "permissions": READ,
        "vendor_id": "V",
        "locations": frozenset({"L1", "L2"}),
        "expires_at": 2e9,
    }
    return Principal(**usual | changes)


def session(principal: Principal | None, *topics: str, view: str | None = None) -> Session:
    made = Session(
        InventoryV1(),
        limits=SessionLimits(max_message_bytes=0, max_topics=0),
        principal=principal,
        auth_available=True,
    )
    if topics:
        message = {"type": "subscribe", "topics": topics} | ({"view": view} if view else {})
        events = made.receive(orjson.dumps(message), now=NOW)
        assert sum(isinstance(event, Subscribe) for event in events) == len(topics)
    return made


def said(events: list[Event]) -> list[dict[str, Any]]:
    return [orjson.loads(event.payload) for event in events if isinstance(event, Send)]


def ended(events: list[Event]) -> list[str]:
    told = [message["topic"] for message in said(events) if message["type"] == "unsubscribed"]
    left = [event.subscription.topic for event in events if isinstance(event, Leave)]
    assert told == left
    return told


def test_the_token_is_passed_on_and_shown_to_nobody() -> None:
    (event,) = session(None).receive(b'{"type":"auth","id":"a","token":"s3cret"}', now=NOW)
    assert event == Authenticate("a", "s3cret")
    assert "s3cret" not in repr(event)


def test_whoever_had_none_has_it_then() -> None:
    made = session(None)
    (answer,) = said(made.authenticate("a", till()))
    assert answer == {
        "type": "authenticated",
        "id": "a",
        "principal": "till",
        "expires_at": "2033-05-18T03:33:20.000Z",
    }
    assert made.principal == till()
    assert isinstance(made.receive(b'{"type":"subscribe","topics":["product:A"]}', now=NOW)[0], Subscribe)


def test_the_same_again_keeps_everything() -> None:
    made = session(till(), "location:L1", "product:A", "vendor:V")
    assert ended(made.authenticate(None, till(expires_at=3e9, jti="another"))) == []
    assert len(made.subscriptions) == 3


@pytest.mark.parametrize(
    "other", [{"name": "till-2"}, {"vendor_id": "W"}, {"vendor_id": EVERY}, {"vendor_id": None}]
)
def test_another_subject_or_vendor_changes_nothing(other: dict[str, Any]) -> None:
    made = session(till(), "location:L1")
    (error,) = said(made.authenticate("a", till(**other)))
    assert (error["code"], error["id"]) == ("forbidden", "a")
    assert made.principal == till()
    assert list(made.subscriptions) == ["location:L1"]


@pytest.mark.parametrize(
    ("narrower", "gone"),
    [
        ({"locations": frozenset({"L1"})}, ["location:L2", "product:A", "vendor:V"]),
        ({"locations": frozenset({"L2"})}, ["location:L1", "product:A", "vendor:V"]),
        ({"locations": frozenset()}, ["location:L1", "location:L2", "product:A", "vendor:V"]),
        (
            {"permissions": frozenset({Permission.READ_PUBLIC})},
            ["location:L1", "location:L2", "product:A", "vendor:V"],
        ),
        ({"locations": frozenset({"L1", "L2", "L3"})}, []),
        ({"locations": None}, []),
    ],
)
def test_what_a_narrower_one_does_not_cover_ends_at_once(narrower: dict[str, Any], gone: list[str]) -> None:
    made = session(till(), "location:L1", "location:L2", "product:A", "vendor:V")
    subscriptions = dict(made.subscriptions)
    events = made.authenticate(None, till(**narrower))
    assert ended(events) == gone
    assert all(
        message["reason"] == "scope_changed" for message in said(events) if message["type"] == "unsubscribed"
    )
    assert all(subscriptions[topic].state is SubscriptionState.CLOSED for topic in gone)
    assert made.subscriptions.keys() == subscriptions.keys() - set(gone)


def test_the_public_view_is_the_same_for_every_scope() -> None:
    made = session(till(), "location:L2", "product:A", view="public")
    assert ended(made.authenticate(None, till(locations=frozenset()))) == []
    assert ended(made.authenticate(None, till(permissions=frozenset()))) == ["location:L2", "product:A"]


def test_who_was_anonymous_becomes_somebody_and_keeps_what_that_one_may_see() -> None:
    made = session(Principal.anonymous(exact=True), "location:L1", "location:L9", "vendor:V", "vendor:W")
    assert ended(made.authenticate(None, till(locations=None))) == ["location:L1", "location:L9", "vendor:W"]
    made = session(Principal.anonymous(exact=True), "location:L1", "product:A")
    assert ended(made.authenticate(None, till(vendor_id=EVERY, locations=None))) == []
    made = session(Principal.anonymous(exact=False), "location:L1", "product:A")
    assert ended(made.authenticate(None, till())) == []
