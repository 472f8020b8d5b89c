"""Section 2 of the contract: what a client may send, and the one error each other thing gets."""

import json
import re
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.errors import ErrorCode, FatalMessage, ProtocolError
from protocol.messages import (
    CLIENT_MESSAGES,
    Auth,
    ClientMessage,
    Ping,
    Publish,
    ResumePoint,
    Subscribe,
    Unsubscribe,
)
from protocol.parsing import parse_client_message
from protocol.principal import View

TEXT = st.text(st.characters(codec="utf-8"), max_size=80)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
FIELDS = ["type", "id", "topics", "view", "resume", "token", "idempotency_key", "operations"]
NEARLY = st.dictionaries(st.sampled_from(FIELDS), JSON | st.lists(TEXT, max_size=120), max_size=8).flatmap(
    lambda fields: st.sampled_from(sorted(CLIENT_MESSAGES)).map(lambda name: fields | {"type": name})
)


def parse(message: Any) -> ClientMessage:
    return parse_client_message(json.dumps(message).encode())


def refused(message: Any) -> ProtocolError:
    with pytest.raises(ProtocolError) as raised:
        parse(message)
    assert not isinstance(raised.value, FatalMessage)
    return raised.value


class TestMessages:
    def test_subscribe(self) -> None:
        message = parse({"type": "subscribe", "topics": ["product:A", "location:B"]})
        assert message == Subscribe(type="subscribe", topics=("product:A", "location:B"))

    def test_subscribe_with_everything(self) -> None:
        point = {"epoch": "e", "seq": 41}
        given_fields = {"id": "s1", "topics": ["product:A"], "view": "public", "resume": {"product:A": point}}
        assert parse({"type": "subscribe", **given_fields}) == Subscribe(
            type="subscribe",
            id="s1",
            topics=("product:A",),
            view=View.PUBLIC,
            resume={"product:A": ResumePoint(epoch="e", seq=41)},
        )

    def test_the_others(self) -> None:
        assert parse({"type": "unsubscribe", "topics": ["a"]}) == Unsubscribe(
            type="unsubscribe", topics=("a",)
        )
        assert parse({"type": "ping", "id": ""}) == Ping(type="ping", id="")
        assert parse({"type": "auth", "token": "t"}) == Auth(type="auth", token="t")
        publish = {"type": "publish", "idempotency_key": "k", "operations": [{"op": "adjust"}]}
        assert parse(publish) == Publish(type="publish", idempotency_key="k", operations=({"op": "adjust"},))

    def test_unknown_fields_are_ignored(self) -> None:
        assert parse({"type": "ping", "trace": {"a": [1]}}) == Ping(type="ping")

    def test_a_message_can_not_be_changed(self) -> None:
        with pytest.raises(ValueError, match="frozen"):
            parse({"type": "ping"}).type = "ping"  # type: ignore[misc]  # that it is refused is the point


class TestWhatIsNoMessage:
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"   ",
            b"{",
            b"nonsense",
            b"null",
            b"[]",
            b'"ping"',
            b"7",
            b'{"type":"ping"} {"type":"ping"}',
            b"{'type':'ping'}",
            b'{"type":"ping","id":NaN}',
            b'{"type":"ping","id":"\xff"}',
            b'{"type":"ping","id":"\\ud800"}',
            b"\xef\xbb\xbf{}",
            b'{"type":"ping","x":' + b"[" * 1_100 + b"]" * 1_100 + b"}",
            b'{"a":' * 5_000,
            b"\x00",
        ],
    )
    def test_is_fatal(self, data: bytes) -> None:
        with pytest.raises(FatalMessage) as raised:
            parse_client_message(data)
        assert raised.value.code is ErrorCode.BAD_MESSAGE
        assert raised.value.id is None


class TestId:
    @pytest.mark.parametrize("request_id", ["", "x" * 64, "\u2615" * 64, "\x01" * 64])
    def test_is_any_string_of_up_to_64_characters(self, request_id: str) -> None:
        assert parse({"type": "ping", "id": request_id}).id == request_id

    @pytest.mark.parametrize("request_id", [None, 7, True, [], {}, "x" * 65])
    @pytest.mark.parametrize("name", ["ping", "nonsense", None])
    def test_anything_else_is_bad_and_not_echoed(self, request_id: object, name: str | None) -> None:
        error = refused({"type": name, "id": request_id})
        assert (error.code, error.id) == (ErrorCode.BAD_MESSAGE, None)
        assert error.message.startswith("id: ")

    @pytest.mark.parametrize(
        "fields",
        [
            {"type": "nonsense"},
            {"type": 7},
            {},
            {"type": "subscribe"},
            {"type": "subscribe", "topics": ["product:A"] * 101},
        ],
    )
    def test_is_echoed_by_every_error(self, fields: dict[str, Any]) -> None:
        assert refused(fields | {"id": "r1"}).id == "r1"
        assert refused(fields).id is None


class TestType:
    @pytest.mark.parametrize("name", ["", "Subscribe", "snapshot", "__class__"])
    def test_unknown(self, name: str) -> None:
        assert refused({"type": name}).code is ErrorCode.UNKNOWN_TYPE

    @pytest.mark.parametrize("fields", [{}, {"type": None}, {"type": 7}, {"type": ["ping"]}, {"type": {}}])
    def test_missing_or_no_string(self, fields: dict[str, Any]) -> None:
        error = refused(fields)
        assert error.code is ErrorCode.BAD_MESSAGE
        assert error.message.startswith("type: ")


class TestTopics:
    @pytest.mark.parametrize("name", ["subscribe", "unsubscribe"])
    def test_up_to_100_in_a_message(self, name: str) -> None:
        topics = [f"product:{number}" for number in range(101)]
        message = parse({"type": name, "topics": topics[:100]})
        assert isinstance(message, Subscribe | Unsubscribe)
        assert len(message.topics) == 100
        assert refused({"type": name, "topics": topics}).code is ErrorCode.TOO_MANY_TOPICS

    def test_too_many_is_said_whatever_they_are(self) -> None:
        assert refused({"type": "subscribe", "topics": [None] * 101}).code is ErrorCode.TOO_MANY_TOPICS

    def test_a_message_that_has_no_topics_may_call_something_else_so(self) -> None:
        assert parse({"type": "ping", "topics": [1] * 101}) == Ping(type="ping")

    @pytest.mark.parametrize("topics", [None, "product:A", {"product:A": 1}, [], 7])
    def test_are_a_list_with_something_in_it(self, topics: object) -> None:
        error = refused({"type": "subscribe", "topics": topics})
        assert error.code is ErrorCode.BAD_MESSAGE
        assert error.message.startswith("topics: ")

    @pytest.mark.parametrize("topic", [None, 7, ["product:A"], {}])
    def test_are_strings(self, topic: object) -> None:
        error = refused({"type": "unsubscribe", "topics": ["product:A", topic]})
        assert error.code is ErrorCode.BAD_MESSAGE
        assert error.message.startswith("topics.1: ")


class TestFields:
    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"type": "subscribe"}, "topics"),
            ({"type": "subscribe", "topics": ["a"], "view": "all"}, "view"),
            ({"type": "subscribe", "topics": ["a"], "view": 1}, "view"),
            ({"type": "auth"}, "token"),
            ({"type": "auth", "token": ""}, "token"),
            ({"type": "auth", "token": 7}, "token"),
            ({"type": "publish", "operations": []}, "idempotency_key"),
            ({"type": "publish", "idempotency_key": "k", "operations": [7]}, "operations.0"),
        ],
    )
    def test_a_wrong_one_is_named(self, fields: dict[str, Any], field: str) -> None:
        error = refused(fields)
        assert error.code is ErrorCode.BAD_MESSAGE
        assert error.message.startswith(f"{field}: ")

    @pytest.mark.parametrize(
        "resume",
        [
            [],
            "product:A",
            {"product:A": None},
            {"product:A": ["e", 1]},
            {"product:A": {"epoch": "e"}},
            {"product:A": {"seq": 1}},
            {"product:A": {"epoch": 1, "seq": 1}},
            {"product:A": {"epoch": "", "seq": 1}},
            {"product:A": {"epoch": "e" * 65, "seq": 1}},
            {"product:A": {"epoch": "e", "seq": "1"}},
            {"product:A": {"epoch": "e", "seq": 1.0}},
            {"product:A": {"epoch": "e", "seq": True}},
            {"product:A": {"epoch": "e", "seq": -1}},
            {"product:A": {"epoch": "e", "seq": 2**53}},
            {"product:A": {"epoch": "e", "seq": 10**30}},
            {"product:B": {"epoch": "e"}},
        ],
    )
    def test_a_malformed_resume_is_a_bad_message(self, resume: object) -> None:
        error = refused({"type": "subscribe", "id": "s1", "topics": ["product:A"], "resume": resume})
        assert (error.code, error.id) == (ErrorCode.BAD_MESSAGE, "s1")
        assert error.message.startswith("resume")

    @pytest.mark.parametrize(
        "fields",
        [
            {"type": "subscribe", "topics": 7},
            {"type": "subscribe", "topics": []},
            {"type": "subscribe", "topics": ["a"], "resume": []},
            {"type": "subscribe", "topics": ["a"], "resume": {"a": 7}},
            {"type": "publish", "idempotency_key": "k", "operations": {}},
            {"type": "publish", "idempotency_key": "k", "operations": [7]},
        ],
    )
    def test_nobody_is_told_of_python(self, fields: dict[str, Any]) -> None:
        assert not re.search("tuple|dict|model|instance", refused(fields).message, re.IGNORECASE)

    def test_a_long_name_of_a_field_is_cut(self) -> None:
        error = refused({"type": "subscribe", "topics": ["a"], "resume": {"x" * 10_000: 1}})
        assert len(error.message) < 200


class TestAnythingElse:
    """Nothing but ProtocolError comes out of the parser, and it can be told to the client."""

    def parses_or_refuses(self, data: bytes) -> None:
        try:
            message = parse_client_message(data)
        except ProtocolError as error:
            told = error
        else:
            assert type(message) is CLIENT_MESSAGES[message.type]
            return
        assert len(told.message) < 400
        assert orjson.dumps([told.id, told.message, told.topic])

    @given(st.binary(max_size=200))
    @example(b"[" * 100_000)
    def test_bytes(self, data: bytes) -> None:
        self.parses_or_refuses(data)

    @given(JSON)
    def test_json(self, value: Any) -> None:
        self.parses_or_refuses(orjson.dumps(value))

    @given(NEARLY)
    def test_nearly_messages(self, message: dict[str, Any]) -> None:
        self.parses_or_refuses(orjson.dumps(message))

    @given(NEARLY, st.integers(0, 400), st.binary(max_size=3))
    def test_damaged_messages(self, message: dict[str, Any], at: int, damage: bytes) -> None:
        data = orjson.dumps(message)
        self.parses_or_refuses(data[:at] + damage + data[at + 1 :])
