"""Whatever a client asks for and whenever the hub gets round to it, the frames keep the contract's order."""

import json
from itertools import count
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.errors import ErrorCode, ProtocolError
from protocol.session import Leave, Send, Session, Signal, Subscribe, Subscription, SubscriptionState
from tests.unit.protocol.builders import EXACT, NOW, PUBLIC, checked, session, stock

TOPICS = ["product:A", "location:L1", "vendor:V", "nonsense"]
MAX_TOPICS = 2
NAMES = st.lists(st.sampled_from(TOPICS), min_size=1, max_size=4)
S = SubscriptionState


class Client:
    """Believes nothing: fails on any frame that the contract does not allow at that point."""

    def __init__(self) -> None:
        self.topics: dict[str, str] = {}  # what was asked for: waiting, sending or live
        self.seqs: dict[tuple[str, str], int] = {}

    def hear(self, payload: bytes) -> None:
        message = checked(payload)
        topic: str = message.get("topic", "")
        match message["type"]:
            case "snapshot":
                # A new snapshot may come at any time in the life of a subscription; its parts in order.
                assert topic in self.topics
                assert message["part"] == 1 or self.topics[topic] == "sending"
                self.topics[topic] = "live" if message["last"] else "sending"
                self._position(message)
            case "resumed":
                assert self.topics[topic] == "waiting"
                self.topics[topic] = "live"
                self._position(message)
            case "delta":
                assert self.topics[topic] == "live"
                self._position(message)
            case "unsubscribed":
                self.topics.pop(topic, None)
            case "error" if message["code"] == "unavailable":
                assert self.topics.pop(topic)

    def _position(self, message: dict[str, Any]) -> None:
        name = message["topic"], message["epoch"]
        assert message["seq"] >= self.seqs.get(name, 0)
        self.seqs[name] = message["seq"]


class Conversation(RuleBasedStateMachine):
    """The hub of this test does what a real one does: it looks at `state` and signals what it sends."""

    def __init__(self) -> None:
        super().__init__()
        self.session: Session = session(EXACT, max_topics=MAX_TOPICS)
        self.client = Client()
        self.known: list[Subscription] = []  # every subscription there has been, also ended ones
        self.asked: dict[Subscription, Any] = {}
        self.parts: dict[Subscription, int] = {}
        self.seq = count(1)

    def tell(self, **message: Any) -> None:
        for event in self.session.receive(json.dumps(message).encode(), now=NOW):
            if isinstance(event, Send):
                self.client.hear(event.payload)
            elif isinstance(event, Subscribe):
                subscription = event.subscription
                assert subscription.state is S.WAITING
                self.known.append(subscription)
                self.asked[subscription] = event.resume
                self.client.topics[subscription.topic] = "waiting"
            elif isinstance(event, Leave):
                assert event.subscription.state is S.CLOSED

    def any_in(self, *states: SubscriptionState) -> list[Subscription]:
        return [subscription for subscription in self.known if subscription.state in states]

    def send_part(self, subscription: Subscription, last: bool) -> None:
        self.parts[subscription] += 1
        tail = self.session.dialect.snapshot_tail(
            subscription.topic, "e", subscription.seq, self.parts[subscription], last, [stock("A", "L1", 1)]
        )
        self.client.hear(self.session.dialect.snapshot_head(subscription.id) + tail)
        if last:
            subscription.signal(Signal.SNAPSHOT_ENDS)

    @rule(names=NAMES, view=st.sampled_from(["exact", "public", None]), resume=st.booleans())
    def subscribe(self, names: list[str], view: str | None, resume: bool) -> None:
        positions = {name: {"epoch": "e", "seq": 0} for name in names} if resume else {}
        self.tell(type="subscribe", id="s", topics=names, view=view, resume=positions)

    @rule(names=NAMES)
    def unsubscribe(self, names: list[str]) -> None:
        self.tell(type="unsubscribe", id="u", topics=names)
        assert not self.session.subscriptions.keys() & set(names)

    @rule(public=st.booleans())
    def change_principal(self, public: bool) -> None:
        self.session.principal = PUBLIC if public else EXACT

    @precondition(lambda self: bool(self.any_in(S.WAITING)))
    @rule(data=st.data(), last=st.booleans())
    def begin_snapshot(self, data: st.DataObject, last: bool) -> None:
        subscription = data.draw(st.sampled_from(self.any_in(S.WAITING)))
        subscription.signal(Signal.SNAPSHOT_BEGINS)
        subscription.seq = next(self.seq)
        self.parts[subscription] = 0
        self.send_part(subscription, last)

    @precondition(lambda self: bool(self.any_in(S.SENDING)))
    @rule(data=st.data(), last=st.booleans())
    def go_on_with_snapshot(self, data: st.DataObject, last: bool) -> None:
        self.send_part(data.draw(st.sampled_from(self.any_in(S.SENDING))), last)

    @precondition(lambda self: any(self.asked[s] for s in self.any_in(S.WAITING)))
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        subscription = data.draw(st.sampled_from([s for s in self.any_in(S.WAITING) if self.asked[s]]))
        self.asked[subscription] = None
        subscription.seq = next(self.seq)
        subscription.signal(Signal.RESUMED)
        self.client.hear(
            self.session.dialect.resumed(subscription.id, subscription.topic, "e", subscription.seq)
        )

    @precondition(lambda self: bool(self.any_in(S.LIVE)))
    @rule(data=st.data())
    def delta(self, data: st.DataObject) -> None:
        subscription = data.draw(st.sampled_from(self.any_in(S.LIVE)))
        before, subscription.seq = subscription.seq, next(self.seq)
        item = stock("A", "L1", subscription.seq)
        for payload in self.session.dialect.deltas(subscription.topic, "e", before, subscription.seq, [item]):
            self.client.hear(payload)

    @precondition(lambda self: bool(self.any_in(S.WAITING, S.SENDING, S.LIVE)))
    @rule(data=st.data())
    def restart(self, data: st.DataObject) -> None:
        subscription = data.draw(st.sampled_from(self.any_in(S.WAITING, S.SENDING, S.LIVE)))
        self.asked[subscription] = None
        subscription.signal(Signal.RESTART)

    @precondition(lambda self: bool(self.known))
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        """The answer of a load may come when nobody wants it any more."""
        subscription = data.draw(st.sampled_from(self.known))
        was_held = subscription.state is not S.CLOSED
        payload = self.session.refuse(subscription, ProtocolError(ErrorCode.UNAVAILABLE, "later"))
        assert (payload is not None) is was_held
        if payload is not None:
            self.client.hear(payload)

    @precondition(lambda self: bool(self.known))
    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        payload = self.session.revoke(data.draw(st.sampled_from(self.known)), "scope_changed")
        if payload is not None:
            self.client.hear(payload)

    @invariant()
    def what_is_held_is_what_is_open(self) -> None:
        open_ones = self.any_in(S.WAITING, S.SENDING, S.LIVE)
        assert {subscription.topic: subscription for subscription in open_ones} == self.session.subscriptions
        assert len(open_ones) == len(self.session.subscriptions) <= MAX_TOPICS

    @invariant()
    def the_client_holds_the_same(self) -> None:
        assert self.client.topics.keys() == self.session.subscriptions.keys()

    def teardown(self) -> None:
        self.session.close()
        assert self.any_in(S.WAITING, S.SENDING, S.LIVE) == []


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
