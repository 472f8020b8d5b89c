"""JSON that is as deep, wide or long as it may be, wherever a stranger can send some: a clean refusal, and
work that grows no faster than the bytes. What is counted are calls, which do not depend on the machine; the
parsers themselves, which are C, are held to a ratio of their times that nothing quadratic comes near."""

import gc
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import pytest

from gateway.auth.algorithms import ASYMMETRIC
from gateway.auth.compact import MAX_TOKEN_BYTES, read_compact, read_object
from gateway.auth.errors import BadToken, NoKeySet
from gateway.auth.fetching import MAX_BYTES as MAX_KEY_SET_BYTES
from gateway.auth.keys import KeyRing, read_key_set, secret_key
from gateway.auth.tokens import TokenRules, TokenVerifier
from protocol.dialects.inventory_v1 import InventoryV1
from protocol.errors import Close
from protocol.messages import SessionLimits
from protocol.principal import Principal
from protocol.session import CloseWith, Send, Session
from tests.support.tokens import NOW, SECRET, base64url, claims, compact, hs256

MESSAGE_BYTES: Final = 16_384
NOW_TIME: Final = datetime(2026, 11, 26, tzinfo=UTC)

Shape = Callable[[int], bytes]

# Each of about so many bytes.
SHAPES: Final[Mapping[str, Shape]] = {
    "lists in lists": lambda size: b"[" * (size // 2) + b"]" * (size // 2),
    "lists that do not end": lambda size: b"[" * size,
    "objects in objects": lambda size: b'{"a":' * (size // 6) + b"0" + b"}" * (size // 6),
    "a wide list": lambda size: b"[" + b"0," * (size // 2 - 1) + b"0]",
    "a list of lists": lambda size: b"[" + b"[]," * (size // 3 - 1) + b"[]]",
    "a wide object": lambda size: b"{" + b",".join(b'"%06d":0' % n for n in range(size // 11)) + b"}",
    "one member often": lambda size: b"{" + b",".join([b'"a":0'] * (size // 6)) + b"}",
    "a large number": lambda size: b"9" * size,
    "a long fraction": lambda size: b"0." + b"9" * size,
    "a large exponent": lambda size: b"1e" + b"9" * size,
    "a long text": lambda size: b'"' + b"x" * size + b'"',
    "a text of escapes": lambda size: b'"' + rb"\u0041" * (size // 6) + b'"',
    "halves of characters": lambda size: b'"' + rb"\ud83d" * (size // 6) + b'"',
    "a text that does not end": lambda size: b'"' + b"\\\\" * (size // 2),
    "spaces": lambda size: b" " * size + b"0",
}

# What a message, a claim or a key is called that holds one.
PLACES: Final = ("x", "id", "type", "topics", "resume", "token", "operations")
CLAIMS: Final = ("sub", "exp", "nbf", "jti", "vendor_id", "locations", "permissions", "aud", "x")
KEYS: Final = ("keys", "kid", "kty", "n", "e", "x", "key_ops", "alg", "crv")


def steps(work: Callable[[], object]) -> int:
    """How many functions are called, ours and the interpreter's."""
    calls = 0

    def count(_: Any, event: str, __: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def shortest_s(work: Callable[[], object]) -> float:
    """Of some, of this thread alone: whatever else the machine does only makes it longer."""
    times = []
    gc.disable()
    try:
        for _ in range(5):
            began = time.thread_time()
            work()
            times.append(time.thread_time() - began)
    finally:
        gc.enable()
    return min(times)


def assert_linear(work: Callable[[bytes], object], shape: Shape, size: int) -> None:
    """Eight times the bytes: quadratic is 64 times the work."""
    small, large = (shape(of) for of in (size // 8, size))
    assert steps(lambda: work(large)) <= 10 * steps(lambda: work(small)) + 200
    # Others on the machine can make one try fail; what is quadratic fails each.
    assert any(shortest_s(lambda: work(large)) <= 24 * shortest_s(lambda: work(small)) for _ in range(5))


def session() -> Session:
    limits = SessionLimits(max_message_bytes=MESSAGE_BYTES, max_topics=500)
    return Session(
        InventoryV1(), limits=limits, principal=Principal.anonymous(exact=True), auth_available=True
    )


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
class TestMessages:
    def test_alone(self, shape: Shape) -> None:
        """No object at all, or one without a type."""
        message = shape(MESSAGE_BYTES - 20)
        assert len(message) <= MESSAGE_BYTES
        events = session().receive(message, now=NOW_TIME)
        assert isinstance(events[0], Send)
        assert b'"bad_message"' in events[0].payload
        if not message.startswith(b"{") or b"{" in message[1:]:
            assert events[1:] == [CloseWith(Close.BAD_MESSAGE)]

    @pytest.mark.parametrize("place", PLACES)
    def test_in_a_message(self, shape: Shape, place: str) -> None:
        """Passed over, or refused: one answer of a few bytes, whatever the size of what was sent."""
        for kind in ("ping", "subscribe", "unsubscribe", "auth", "publish"):
            type_of = b"" if place == "type" else b'"type":"%s",' % kind.encode()
            message = b'{%s"%s":%s}' % (type_of, place.encode(), shape(MESSAGE_BYTES - 60))
            assert len(message) <= MESSAGE_BYTES
            sent = [event for event in session().receive(message, now=NOW_TIME) if isinstance(event, Send)]
            assert sum(len(event.payload) for event in sent) < 1000
            assert {event.type for event in sent} <= {"error", "pong"}

    def test_work_grows_with_the_bytes(self, shape: Shape) -> None:
        def receive(bomb: bytes) -> object:
            return session().receive(
                b'{"type":"subscribe","topics":["product:A"],"x":%s}' % bomb, now=NOW_TIME
            )

        assert_linear(receive, shape, MESSAGE_BYTES - 60)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
class TestTokens:
    SIZE: Final = 5800  # of the 8192, once it is base64

    def test_as_a_header(self, shape: Shape) -> None:
        for header in (shape(self.SIZE), b'{"alg":"HS256","x":%s}' % shape(self.SIZE - 40)):
            token = compact(header, claims(), b"")
            assert len(token) < MAX_TOKEN_BYTES
            with pytest.raises(BadToken):
                verifier().verify(f"{token}{base64url(b'x')}")

    @pytest.mark.parametrize("name", CLAIMS)
    def test_as_a_signed_claim(self, shape: Shape, name: str) -> None:
        """Even by whoever has the key: good where nothing reads it, else refused."""
        rest = {key: value for key, value in claims().items() if key != name}
        body = b",".join([b'"%s":%s' % (name.encode(), shape(self.SIZE - 400)), *(members(rest))])
        token = hs256(b"{" + body + b"}")
        assert len(token) < MAX_TOKEN_BYTES
        principal: Principal | None = None
        with suppress(BadToken):
            principal = verifier().verify(token)
        if principal is not None:
            assert name in ("x", "jti", "aud", "nbf", "permissions")
            assert principal.name == "till-1"

    def test_work_grows_with_the_bytes(self, shape: Shape) -> None:
        def read(bomb: bytes) -> None:
            with suppress(BadToken):  # some are objects
                read_object(bomb)

        assert_linear(read, shape, self.SIZE)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
class TestKeySets:
    SIZE: Final = MAX_KEY_SET_BYTES - 300

    def test_alone(self, shape: Shape) -> None:
        with pytest.raises(NoKeySet):
            read_key_set(shape(self.SIZE), ASYMMETRIC)

    @pytest.mark.parametrize("name", KEYS)
    def test_as_a_member(self, shape: Shape, name: str) -> None:
        """A provider's document is trusted, and a broken one is no reason to fail."""
        bomb = shape(self.SIZE)
        usual = {"kty": '"RSA"', "n": '"AQAB"', "e": '"AQAB"', "kid": '"k"', "use": '"sig"'}
        fields = b",".join(b'"%s":%s' % (k.encode(), v.encode()) for k, v in usual.items() if k != name)
        jwk = b'{%s,"%s":%s}' % (fields, name.encode(), bomb)
        body = b'{"keys":%s}' % bomb if name == "keys" else b'{"keys":[%s]}' % jwk
        assert len(body) <= MAX_KEY_SET_BYTES
        with pytest.raises(NoKeySet):
            read_key_set(body, ASYMMETRIC)

    def test_work_grows_with_the_bytes(self, shape: Shape) -> None:
        def read(bomb: bytes) -> None:
            with pytest.raises(NoKeySet):
                read_key_set(b'{"x":%s,"keys":[]}' % bomb, ASYMMETRIC)

        assert_linear(read, shape, self.SIZE)


def verifier() -> TokenVerifier:
    return TokenVerifier(TokenRules(), KeyRing(secret_key(SECRET)), clock=lambda: NOW)


def members(fields: Mapping[str, Any]) -> list[bytes]:
    return [b'"%s":%s' % (name.encode(), orjson.dumps(value)) for name, value in fields.items()]


def test_a_token_that_is_too_long_is_not_even_looked_at() -> None:
    def read(size: int) -> Callable[[], object]:
        text = "a." * size

        def work() -> None:
            with pytest.raises(BadToken):
                read_compact(text)

        return work

    assert steps(read(MAX_TOKEN_BYTES)) == steps(read(50 * MAX_TOKEN_BYTES))
