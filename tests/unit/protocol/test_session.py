"""What a session does about what the client says, clause by clause."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.dialects.inventory_v1 import InventoryV1
from protocol.envelope import Position
from protocol.errors import Close, ErrorCode, ProtocolError
from protocol.messages import Publish
from protocol.principal import View
from protocol.session import (
    Authenticate,
    CloseWith,
    Event,
    Leave,
    PublishOperations,
    Send,
    Session,
    SessionLimits,
    Signal,
    Subscribe,
    Subscription,
    SubscriptionState,
)
from tests.unit.protocol.builders import EXACT, NOW, PUBLIC, checked, said, session, tell


def subscribed(events: list[Event]) -> list[Subscription]:
    return [event.subscription for event in events if isinstance(event, Subscribe)]


def codes(events: list[Event]) -> list[tuple[str | None, str]]:
    return [(message.get("topic"), message["code"]) for message in said(events)]


class TestWelcome:
    def test_names_the_principal_and_the_limits(self) -> None:
        welcome = session(max_topics=7, max_message_bytes=0).welcome(session="c1", heartbeat_s=20, now=NOW)
        assert checked(welcome) == {
            "type": "welcome",
            "protocol": "inventory.v1",
            "session": "c1",
            "principal": "till",
            "heartbeat_s": 20,
            "time": "2026-11-22T10:00:00.123Z",
            "limits": {"max_message_bytes": 0, "max_topics": 7},
        }

    def test_says_null_where_credentials_are_needed(self) -> None:
        welcome = checked(session(None).welcome(session="c1", heartbeat_s=0.25, now=NOW))
        assert welcome["principal"] is None
        assert welcome["heartbeat_s"] == 0.25


def test_whoever_counts_hears_the_type_of_every_message() -> None:
    heard: list[str] = []
    counted = Session(
        InventoryV1(),
        limits=SessionLimits(max_message_bytes=0, max_topics=0),
        principal=EXACT,
        heard=heard.append,
    )
    for message in (
        b'{"type":"ping"}',
        b'{"type":"dance"}',
        b'{"type":"subscribe","topics":["product:A"]}',
        b"{",
    ):
        counted.receive(message, now=NOW)
    assert heard == ["ping", "other", "subscribe", "other"]


class TestPing:
    def test_is_answered_with_the_time(self) -> None:
        assert said(tell(session(), type="ping", id="p1")) == [
            {"type": "pong", "id": "p1", "time": "2026-11-22T10:00:00.123Z"}
        ]

    def test_an_id_is_echoed_even_if_empty_and_left_out_if_there_was_none(self) -> None:
        assert said(tell(session(), type="ping", id=""))[0]["id"] == ""
        assert "id" not in said(tell(session(), type="ping"))[0]


class TestSubscribe:
    def test_each_topic_becomes_a_subscription(self) -> None:
        to = session()
        events = tell(to, type="subscribe", id="s1", topics=["product:A", "vendor:V"])
        first, second = subscribed(events)
        assert (first.topic, first.id, first.view, first.state) == (
            "product:A",
            "s1",
            View.EXACT,
            SubscriptionState.WAITING,
        )
        assert to.subscriptions == {"product:A": first, "vendor:V": second}

    def test_each_topic_succeeds_or_fails_by_itself(self) -> None:
        to = session(PUBLIC)
        events = tell(to, type="subscribe", id="s1", topics=["shop:1", "product:A", "vendor:V", "location:L"])
        assert codes(events) == [("shop:1", "unknown_topic"), ("vendor:V", "forbidden")]
        assert {message["id"] for message in said(events)} == {"s1"}
        assert list(to.subscriptions) == ["product:A", "location:L"]

    def test_more_than_100_topics_are_none(self) -> None:
        to = session()
        topics = [f"product:{number}" for number in range(101)]
        assert codes(tell(to, type="subscribe", id="s1", topics=topics)) == [(None, "too_many_topics")]
        assert to.subscriptions == {}
        assert len(subscribed(tell(to, type="subscribe", topics=topics[1:]))) == 100

    def test_a_topic_named_twice_is_one_topic(self) -> None:
        events = tell(session(), type="subscribe", topics=["product:A", "x", "product:A", "x"])
        assert [type(event) for event in events] == [Subscribe, Send]

    def test_a_held_topic_is_replaced(self) -> None:
        to = session()
        (old,) = subscribed(tell(to, type="subscribe", id="s1", topics=["product:A"]))
        left, new = tell(to, type="subscribe", id="s2", topics=["product:A"], view="public")
        assert left == Leave(old)
        assert old.state is SubscriptionState.CLOSED
        assert isinstance(new, Subscribe)
        assert to.subscriptions == {"product:A": new.subscription}
        assert (new.subscription.id, new.subscription.view) == ("s2", View.PUBLIC)

    def test_a_held_topic_stays_if_the_new_subscription_is_refused(self) -> None:
        to = session(PUBLIC)
        (held,) = subscribed(tell(to, type="subscribe", topics=["product:A"]))
        assert codes(tell(to, type="subscribe", topics=["product:A"], view="exact")) == [
            ("product:A", "forbidden")
        ]
        assert to.subscriptions == {"product:A": held}
        assert held.state is SubscriptionState.WAITING


class TestViews:
    @pytest.mark.parametrize(("principal", "view"), [(EXACT, View.EXACT), (PUBLIC, View.PUBLIC)])
    def test_without_a_word_it_is_the_best_permitted(self, principal: Any, view: View) -> None:
        (subscription,) = subscribed(tell(session(principal), type="subscribe", topics=["product:A"]))
        assert subscription.view is view

    @pytest.mark.parametrize(
        ("principal", "topic", "view"),
        [(PUBLIC, "product:A", "exact"), (PUBLIC, "vendor:V", None), (EXACT, "vendor:V", "public")],
    )
    def test_forbidden(self, principal: Any, topic: str, view: str | None) -> None:
        to = session(principal)
        assert codes(tell(to, type="subscribe", topics=[topic], view=view)) == [(topic, "forbidden")]
        assert to.subscriptions == {}


class TestResume:
    RESUME = {"product:A": {"epoch": "e1", "seq": 41}, "product:Z": {"epoch": "e2", "seq": 1}}  # noqa: RUF012 - a constant

    def test_an_exact_subscription_goes_on_from_the_position(self) -> None:
        events = tell(session(), type="subscribe", topics=["product:A", "product:B"], resume=self.RESUME)
        assert [event.resume for event in events if isinstance(event, Subscribe)] == [
            Position("e1", 41),
            None,
        ]

    @pytest.mark.parametrize(("principal", "view"), [(PUBLIC, None), (EXACT, "public")])
    def test_a_public_one_says_what_its_snapshot_must_not_be_behind_of(
        self, principal: Any, view: str | None
    ) -> None:
        (event,) = tell(
            session(principal), type="subscribe", topics=["product:A"], view=view, resume=self.RESUME
        )
        assert isinstance(event, Subscribe)
        assert event.resume == Position("e1", 41)

    def test_a_malformed_entry_spoils_the_message(self) -> None:
        to = session()
        events = tell(
            to, type="subscribe", id="s1", topics=["product:A"], resume={"product:B": {"epoch": "e"}}
        )
        assert codes(events) == [(None, "bad_message")]
        assert to.subscriptions == {}


class TestUnsubscribe:
    def test_ends_the_subscription_before_it_is_answered(self) -> None:
        to = session()
        (held,) = subscribed(tell(to, type="subscribe", topics=["product:A"]))
        left, answer = tell(to, type="unsubscribe", id="u1", topics=["product:A"])
        assert left == Leave(held)
        assert held.state is SubscriptionState.CLOSED
        assert said([answer]) == [{"type": "unsubscribed", "id": "u1", "topic": "product:A"}]
        assert to.subscriptions == {}

    def test_a_topic_that_is_not_held_is_answered_all_the_same(self) -> None:
        events = tell(session(PUBLIC), type="unsubscribe", topics=["vendor:V", "product:A", "product:A"])
        assert [message["topic"] for message in said(events)] == ["vendor:V", "product:A"]
        assert len(events) == 2

    def test_each_topic_succeeds_or_fails_by_itself(self) -> None:
        events = tell(session(), type="unsubscribe", id="u1", topics=["x", "product:A"])
        assert [message["type"] for message in said(events)] == ["error", "unsubscribed"]
        assert said(events)[0]["code"] == "unknown_topic"
        assert {message["id"] for message in said(events)} == {"u1"}


class TestLimits:
    def test_topics_beyond_the_limit_are_refused_one_by_one(self) -> None:
        to = session(max_topics=2)
        events = tell(
            to, type="subscribe", id="s1", topics=["product:A", "product:B", "product:C", "product:D"]
        )
        assert codes(events) == [("product:C", "too_many_topics"), ("product:D", "too_many_topics")]
        assert list(to.subscriptions) == ["product:A", "product:B"]

    def test_a_held_topic_takes_no_place_when_it_is_replaced(self) -> None:
        to = session(max_topics=1)
        tell(to, type="subscribe", topics=["product:A"])
        assert len(subscribed(tell(to, type="subscribe", topics=["product:A"]))) == 1

    def test_a_place_that_was_left_is_free(self) -> None:
        to = session(max_topics=1)
        tell(to, type="subscribe", topics=["product:A"])
        tell(to, type="unsubscribe", topics=["product:A"])
        assert len(subscribed(tell(to, type="subscribe", topics=["product:B"]))) == 1

    def test_zero_is_no_limit(self) -> None:
        to = session(max_topics=0, max_message_bytes=0)
        for block in range(6):
            tell(to, type="subscribe", topics=[f"product:{block}.{number}" for number in range(100)])
        assert len(to.subscriptions) == 600
        assert said(tell(to, type="ping", padding="x" * 100_000))[0]["type"] == "pong"

    def test_a_message_may_be_just_as_large_as_allowed(self) -> None:
        to = session(max_message_bytes=100)
        message = b'{"type":"ping"}'
        assert said(to.receive(message.ljust(100), now=NOW))[0]["type"] == "pong"
        assert codes(to.receive(message.ljust(101), now=NOW)) == [(None, "too_large")]
        assert said(to.receive(message, now=NOW))[0]["type"] == "pong"


class TestWithoutCredentials:
    @pytest.mark.parametrize(
        "message",
        [
            {"type": "subscribe", "topics": ["product:A"]},
            {"type": "subscribe", "topics": ["product:A"] * 101},
            {"type": "unsubscribe", "topics": ["product:A"]},
            {"type": "publish", "idempotency_key": "k", "operations": []},
            {"type": "nonsense"},
        ],
    )
    def test_everything_is_unauthenticated(self, message: dict[str, Any]) -> None:
        to = session(None)
        events = tell(to, id="r1", **message)
        assert [(m["id"], m["code"]) for m in said(events)] == [("r1", "unauthenticated")]
        assert len(events) == 1
        assert to.subscriptions == {}

    def test_but_ping_and_auth(self) -> None:
        assert said(tell(session(None), type="ping"))[0]["type"] == "pong"
        assert tell(session(None, auth_available=True), type="auth", token="t") == [Authenticate(None, "t")]

    def test_what_can_not_be_read_is_said_to_be_so(self) -> None:
        assert codes(tell(session(None), type="auth")) == [(None, "bad_message")]
        assert CloseWith(Close.BAD_MESSAGE) in session(None).receive(b"x", now=NOW)

    def test_a_principal_that_comes_later_is_served(self) -> None:
        to = session(None, auth_available=True)
        to.principal = EXACT
        assert subscribed(tell(to, type="subscribe", topics=["product:A"]))


class TestAuthAndPublish:
    PUBLISH = {"type": "publish", "id": "o1", "idempotency_key": "k", "operations": []}  # noqa: RUF012 - a constant

    @pytest.mark.parametrize("message", [{"type": "auth", "id": "o1", "token": "t"}, PUBLISH])
    def test_are_unavailable_in_a_build_without_them(self, message: dict[str, Any]) -> None:
        (error,) = said(tell(session(), **message))
        assert (error["id"], error["code"]) == ("o1", "unavailable")
        assert error["retry_after_ms"] > 0

    def test_are_handed_on_in_a_build_with_them(self) -> None:
        to = session(auth_available=True, publish_available=True)
        assert tell(to, type="auth", id="a1", token="t") == [Authenticate("a1", "t")]
        assert tell(to, **self.PUBLISH) == [PublishOperations(Publish.model_validate(self.PUBLISH))]


class TestFatal:
    @pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"{"])
    def test_what_is_no_json_object_closes_after_the_error(self, data: bytes) -> None:
        send, close = session().receive(data, now=NOW)
        assert codes([send]) == [(None, "bad_message")]
        assert close == CloseWith(Close.BAD_MESSAGE)

    def test_so_does_a_binary_message(self) -> None:
        send, close = session().receive_binary()
        assert codes([send]) == [(None, "bad_message")]
        assert close == CloseWith(Close.BAD_MESSAGE)

    def test_nothing_is_answered_afterwards(self) -> None:
        to = session(max_message_bytes=20)
        to.receive(b"x", now=NOW)
        assert to.receive(b'{"type":"ping"}', now=NOW) == []
        assert to.receive(b'{"type":"ping"}'.ljust(21), now=NOW) == []
        assert to.receive_binary() == []


class TestTopicsOfTheUrl:
    def test_are_subscribed_to_without_an_id(self) -> None:
        to = session(PUBLIC)
        events = to.subscribe_on_open(["product:A", "", "vendor:V", "x\udcff"])
        (subscription,) = subscribed(events)
        assert (subscription.id, subscription.view) == (None, View.PUBLIC)
        assert codes(events) == [("vendor:V", "forbidden"), ("x?", "unknown_topic")]

    def test_none_are_none(self) -> None:
        assert session().subscribe_on_open([""]) == []
        assert session(None).subscribe_on_open([]) == []

    def test_need_credentials(self) -> None:
        assert codes(session(None).subscribe_on_open(["product:A", "product:B"])) == [
            (None, "unauthenticated")
        ]

    def test_up_to_100(self) -> None:
        topics = [f"product:{number}" for number in range(101)]
        assert len(subscribed(session().subscribe_on_open(topics[:100]))) == 100
        assert codes(session().subscribe_on_open(topics)) == [(None, "too_many_topics")]


class TestTheServersWill:
    def held(self) -> tuple[Session, Subscription]:
        to = session()
        (subscription,) = subscribed(tell(to, type="subscribe", id="s1", topics=["product:A"]))
        return to, subscription

    def test_refuse_ends_a_subscription_with_an_error_about_it(self) -> None:
        to, subscription = self.held()
        payload = to.refuse(subscription, ProtocolError(ErrorCode.UNAVAILABLE, "later", retry_after_ms=250))
        assert payload is not None
        assert checked(payload) == {
            "type": "error",
            "id": "s1",
            "topic": "product:A",
            "code": "unavailable",
            "message": "later",
            "retry_after_ms": 250,
        }
        assert subscription.state is SubscriptionState.CLOSED
        assert to.subscriptions == {}

    def test_revoke_ends_a_subscription_with_the_reason(self) -> None:
        to, subscription = self.held()
        subscription.signal(Signal.SNAPSHOT_BEGINS)
        payload = to.revoke(subscription, "scope_changed")
        assert payload is not None
        assert checked(payload) == {"type": "unsubscribed", "topic": "product:A", "reason": "scope_changed"}
        assert to.subscriptions == {}

    @pytest.mark.parametrize("then", [["unsubscribe"], ["subscribe"], ["unsubscribe", "subscribe"]])
    def test_nothing_is_said_about_one_that_is_no_longer_held(self, then: list[str]) -> None:
        to, old = self.held()
        for name in then:
            tell(to, type=name, topics=["product:A"])
        now = dict(to.subscriptions)
        assert to.refuse(old, ProtocolError(ErrorCode.INTERNAL, "")) is None
        assert to.revoke(old, "scope_changed") is None
        assert to.subscriptions == now

    def test_close_leaves_everything_and_answers_nothing_more(self) -> None:
        to, subscription = self.held()
        assert to.close() == [Leave(subscription)]
        assert subscription.state is SubscriptionState.CLOSED
        assert to.close() == []
        assert tell(to, type="ping") == []


class ManyAtOnce:
    """A dialect that takes one message a line, as some do."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def split(self, data: bytes) -> list[bytes]:
        return data.splitlines()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class TestDialectsWithSeveralMessagesAtOnce:
    def test_each_is_answered_until_one_is_fatal(self) -> None:
        to = session()
        to.dialect = ManyAtOnce(to.dialect)
        lines = [b'{"type":"ping"}', b'{"type":"x"}', b"{", b'{"type":"ping"}']
        events = to.receive(b"\n".join(lines), now=NOW)
        assert [m["type"] for m in said(events)] == ["pong", "error", "error"]
        assert isinstance(events[-1], CloseWith)


class TestAnyBytes:
    @given(st.lists(st.binary(max_size=60), max_size=5))
    def test_are_answered_without_an_exception(self, messages: list[bytes]) -> None:
        to = session()
        for data in messages:
            said(to.receive(data, now=NOW))

    @given(
        st.text(st.characters(codec="utf-8"), max_size=64),
        st.text(st.characters(codec="utf-8"), max_size=200),
    )
    def test_any_id_and_topic_are_echoed(self, request_id: str, topic: str) -> None:
        data = json.dumps({"type": "unsubscribe", "id": request_id, "topics": [topic]}).encode()
        (answer,) = said(session().receive(data, now=NOW))
        assert answer["id"] == request_id
        assert answer["topic"] == topic[:128]
