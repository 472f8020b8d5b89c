"""PROTOCOL.md sections 1 to 3, from a client's side: what `tail` resumes from."""

from typing import Any

import orjson
import pytest

from gateway.commands.following import Following


def received(following: Following, *messages: dict[str, Any], now: float = 0) -> None:
    for message in messages:
        following.received(orjson.dumps(message).decode(), now)


def requests(following: Following, now: float = 0) -> list[dict[str, Any]]:
    return [orjson.loads(request) for request in following.due(now)]


def connected(*topics: str, view: str | None = None) -> Following:
    following = Following(topics, view)
    following.disconnected()
    return following


def snapshot(seq: int, *, last: bool = True, epoch: str = "e") -> dict[str, Any]:
    return {"type": "snapshot", "topic": "product:A", "epoch": epoch, "seq": seq, "last": last, "items": []}


def delta(seq: int, epoch: str = "e") -> dict[str, Any]:
    return {"type": "delta", "topic": "product:A", "epoch": epoch, "seq": seq, "items": []}


def resume_after(*messages: dict[str, Any]) -> Any:
    following = connected("product:A")
    requests(following)
    received(following, *messages)
    following.disconnected()
    return requests(following)[0].get("resume")


class TestSubscribing:
    def test_everything_once_on_a_new_connection(self) -> None:
        following = connected("product:A", "location:L1", "product:A")
        assert requests(following) == [{"type": "subscribe", "topics": ["product:A", "location:L1"]}]
        assert requests(following) == []

    def test_the_view_is_asked_for(self) -> None:
        assert requests(connected("product:A", view="public"))[0]["view"] == "public"

    def test_a_message_has_no_more_topics_than_allowed(self) -> None:
        found = requests(connected(*(f"product:{n}" for n in range(250))))
        assert [len(request["topics"]) for request in found] == [100, 100, 50]


class TestResuming:
    def test_from_a_complete_snapshot(self) -> None:
        assert resume_after(snapshot(7)) == {"product:A": {"epoch": "e", "seq": 7}}

    def test_from_the_last_delta(self) -> None:
        assert resume_after(snapshot(7), delta(9)) == {"product:A": {"epoch": "e", "seq": 9}}

    def test_never_from_an_unfinished_snapshot(self) -> None:
        assert resume_after(snapshot(7, last=False)) is None
        assert resume_after(snapshot(7), delta(9), snapshot(9, last=False, epoch="f")) is None
        assert resume_after(snapshot(7, last=False), snapshot(7)) == {"product:A": {"epoch": "e", "seq": 7}}

    def test_never_what_was_left_or_refused(self) -> None:
        unsubscribed = {"type": "unsubscribed", "topic": "product:A", "reason": "scope_changed"}
        assert resume_after(snapshot(7), unsubscribed) is None
        error = {"type": "error", "topic": "product:A", "code": "forbidden", "message": "m"}
        assert resume_after(snapshot(7), error) is None

    def test_after_a_resume(self) -> None:
        resumed = {"type": "resumed", "topic": "product:A", "epoch": "e", "seq": 7}
        assert resume_after(resumed, delta(8)) == {"product:A": {"epoch": "e", "seq": 8}}


class TestRefusals:
    @pytest.mark.parametrize(("after_ms", "due_s"), [(2500, 12.5), (None, 11.0), (0, 11.0)])
    def test_what_passes_by_itself_is_asked_for_again(self, after_ms: int | None, due_s: float) -> None:
        following = connected("product:A", "product:B")
        requests(following)
        error = {"type": "error", "topic": "product:A", "code": "unavailable", "retry_after_ms": after_ms}
        received(following, error, now=10)
        assert following.next_due() == due_s
        assert requests(following, due_s - 0.1) == []
        assert requests(following, due_s) == [{"type": "subscribe", "topics": ["product:A"]}]
        assert following.next_due() == float("inf")

    def test_what_does_not_pass_is_not(self) -> None:
        following = connected("product:A")
        requests(following)
        received(following, {"type": "error", "topic": "product:A", "code": "forbidden"})
        received(following, {"type": "error", "topic": "product:Z", "code": "unavailable"})
        received(following, {"type": "error", "code": "unavailable"})
        assert requests(following, 1e9) == []


class TestLeaving:
    def test_the_server_asks_to_come_back_later(self) -> None:
        following = connected("product:A")
        received(following, {"type": "reconnect", "after_ms": 3120})
        assert following.reconnect_after_s == 3.12

    def test_a_new_connection_has_not_been_asked(self) -> None:
        following = connected("product:A")
        received(following, {"type": "reconnect", "after_ms": 3120})
        following.disconnected()
        assert following.reconnect_after_s is None

    def test_patience_is_twice_the_heartbeat(self) -> None:
        following = connected("product:A")
        assert following.patience_s(40) == 40
        received(following, {"type": "welcome", "heartbeat_s": 20})
        assert following.patience_s(40) == 40
        received(following, {"type": "welcome", "heartbeat_s": 5})
        assert following.patience_s(40) == 10
        assert following.welcomed

    def test_unknown_messages_are_ignored(self) -> None:
        following = connected("product:A")
        received(following, {"type": "fireworks", "topic": "product:A"}, {})
        assert requests(following)[0].get("resume") is None
