"""PROTOCOL.md section 1: three ways in, renewal, and the end of credentials; on real sockets."""

import asyncio
import base64
import io
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import structlog
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from gateway.auth.authority import Authority
from gateway.auth.entrance import Entrance
from gateway.auth.jwks import KeySetWatch
from gateway.auth.keys import KeyRing, SigningKey, secret_key
from gateway.auth.tokens import TokenRules, TokenVerifier
from gateway.logs import configure_logging
from gateway.rates import RateKind, RateLimit, Rates
from protocol.principal import Principal
from tests.support.gate import Gate, make_gate
from tests.support.messages import next_message
from tests.support.rates import SharedCounts
from tests.support.replica import stock
from tests.support.tokens import NOW, SECRET, ProviderKey, base64url, claims, hs256
from tests.support.waiting import eventually

PUBLIC = Principal.anonymous(exact=False)
EXACT = Principal.anonymous(exact=True)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def gated(
    anonymous: Principal | None = None,
    *,
    max_unauthenticated: int = 0,
    max_per_principal: int = 0,
    **settings: Any,
) -> AsyncIterator[tuple[Gate, Clock]]:
    clock = Clock()
    verifier = TokenVerifier(TokenRules(), KeyRing(secret_key(SECRET)), clock=clock)
    entrance = Entrance(
        anonymous=anonymous,
        authority=Authority(verifier),
        max_unauthenticated=max_unauthenticated,
        max_per_principal=max_per_principal,
        leeway_s=5,
        clock=clock,
    )
    async with make_gate(entrance=entrance, **settings) as gate:
        yield gate, clock


def by_header(token: str) -> dict[str, Any]:
    return {"additional_headers": {"Authorization": f"Bearer {token}"}}


def by_subprotocol(token: str) -> dict[str, Any]:
    offered = ["inventory.v1", f"bearer.{base64url(token.encode())}"]
    return {"subprotocols": [Subprotocol(name) for name in offered]}


WAYS = {"header": by_header, "subprotocol": by_subprotocol}


async def send(client: ClientConnection, **message: Any) -> None:
    await client.send(orjson.dumps(message).decode())


async def closed_with(client: ClientConnection, *, heard: list[dict[str, Any]] | None = None) -> int:
    """The close code; what came before it goes to `heard`."""
    while True:
        try:
            message = orjson.loads(await asyncio.wait_for(client.recv(), 5))
        except ConnectionClosed as closed:
            return 0 if closed.rcvd is None else closed.rcvd.code
        if heard is not None:
            heard.append(message)


class TestWaysIn:
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("anonymous", [None, PUBLIC])
    async def test_with_the_handshake(self, way: str, anonymous: Principal | None) -> None:
        async with gated(anonymous) as (gate, _), gate.connect(**WAYS[way](hs256(claims()))) as client:
            assert (await next_message(client, "welcome"))["principal"] == "till-1"
            assert client.subprotocol == (None if way == "header" else "inventory.v1")
            await send(client, type="subscribe", id="s", topics=["location:L1"], view="exact")
            assert (await next_message(client, "snapshot"))["id"] == "s"

    async def test_the_header_comes_before_the_subprotocol(self) -> None:
        ways = by_header(hs256(claims(sub="h"))) | by_subprotocol(hs256(claims(sub="s")))
        async with gated() as (gate, _), gate.connect(**ways) as client:
            assert (await next_message(client, "welcome"))["principal"] == "h"

    async def test_the_token_is_never_echoed(self) -> None:
        token = hs256(claims())
        encoded = base64url(token.encode())
        async with gated() as (gate, _), gate.raw() as (reader, writer):
            key = base64.b64encode(b"0123456789abcdef").decode()
            writer.write(
                f"GET /realtime HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Protocol: bearer.{encoded}\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 101 " in head
            assert b"bearer" not in head.lower()
            assert encoded.encode() not in head

    async def test_the_first_message(self) -> None:
        async with gated(auth_timeout_s=0.3) as (gate, _), gate.connect() as client:
            assert (await next_message(client, "welcome"))["principal"] is None
            await send(client, type="subscribe", id="early", topics=["location:L1"])
            assert (await next_message(client, "error"))["code"] == "unauthenticated"
            await send(client, type="auth", id="a1", token=hs256(claims()))
            answer = await next_message(client, "authenticated")
            assert answer == {
                "type": "authenticated",
                "id": "a1",
                "principal": "till-1",
                "expires_at": "2027-01-15T08:10:00.000Z",
            }
            await asyncio.sleep(0.4)  # past the time for credentials
            await send(client, type="subscribe", id="s", topics=["location:L1"])
            assert (await next_message(client, "snapshot"))["id"] == "s"

    async def test_what_follows_at_once_is_answered_in_order(self) -> None:
        async with gated() as (gate, _), gate.connect() as client:
            await send(client, type="auth", id="a", token=hs256(claims()))
            await send(client, type="subscribe", id="s", topics=["location:L1"])
            await send(client, type="ping", id="p")
            kinds = [orjson.loads(await client.recv())["type"] for _ in range(3)]
            assert kinds == ["welcome", "authenticated", "pong"]
            assert (await next_message(client, "snapshot"))["id"] == "s"

    async def test_who_is_anonymous_may_become_somebody(self) -> None:
        async with gated(PUBLIC) as (gate, _), gate.connect() as client:
            assert (await next_message(client, "welcome"))["principal"] == "anonymous"
            await send(client, type="auth", token=hs256(claims()))
            assert (await next_message(client, "authenticated"))["principal"] == "till-1"

    async def test_nobody_in_time(self) -> None:
        async with gated(auth_timeout_s=0.2) as (gate, _), gate.connect() as client:
            await send(client, type="ping")
            assert await closed_with(client) == 4408


BAD = {
    "expired": (hs256(claims(exp=NOW - 60)), "token_expired"),
    "forged": (hs256(claims(), secret=b"x" * 32), "unauthenticated"),
    "no token": ("nonsense", "unauthenticated"),
}


class TestBadOnes:
    @pytest.mark.parametrize("bad", BAD)
    @pytest.mark.parametrize("way", [*WAYS, "message"])
    @pytest.mark.parametrize("anonymous", [None, EXACT])
    async def test_one_error_and_4401(self, bad: str, way: str, anonymous: Principal | None) -> None:
        token, code = BAD[bad]
        options = WAYS[way](token) if way in WAYS else {}
        async with gated(anonymous) as (gate, _), gate.connect(**options) as client:
            if way == "message":
                await send(client, type="auth", id="a", token=token)
            heard: list[dict[str, Any]] = []
            assert await closed_with(client, heard=heard) == 4401
            errors = [message for message in heard if message["type"] == "error"]
            assert [error["code"] for error in errors] == [code]
            assert errors[0].get("id") == ("a" if way == "message" else None)
            assert heard[0]["type"] == "welcome"
            assert heard[0]["principal"] == (None if way != "message" or anonymous is None else "anonymous")
            assert token not in str(heard)

    @pytest.mark.parametrize(
        "options",
        [
            {"additional_headers": {"Authorization": "Bearer "}},
            {"additional_headers": {"Authorization": "Basic dTpw"}},
            {
                "additional_headers": [
                    ("Authorization", f"Bearer {hs256(claims())}"),
                    ("Authorization", "Bearer x"),
                ]
            },
            {"subprotocols": ["inventory.v1", "bearer."]},
            {"subprotocols": ["inventory.v1", "bearer.*"]},
        ],
    )
    async def test_those_that_can_not_be_read(self, options: dict[str, Any]) -> None:
        async with gated(EXACT) as (gate, _), gate.connect(**options) as client:
            assert await closed_with(client) == 4401

    async def test_a_renewal_that_fails_ends_the_connection(self) -> None:
        async with gated() as (gate, _), gate.connect(**by_header(hs256(claims()))) as client:
            await send(client, type="auth", id="r", token=hs256(claims(), secret=b"y" * 32))
            assert await closed_with(client) == 4401

    async def test_nothing_of_a_token_is_logged(self) -> None:
        stream = io.StringIO()
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        configure_logging("debug", "json", stream=stream)
        try:
            tokens = [hs256(claims(sub="secret-subject")), *(token for token, _ in BAD.values())]
            async with gated() as (gate, _):
                for token in tokens:
                    for way in WAYS.values():
                        async with gate.connect(**way(token)) as client:
                            await next_message(client, "welcome")
                    async with gate.connect() as client:
                        await send(client, type="auth", token=token)
                        await client.recv()
                        await client.recv()
            metrics = gate.realtime.metrics.render().decode()
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
            structlog.reset_defaults()
        written = stream.getvalue() + metrics
        assert "connection open" in written
        for token in tokens:
            for part in token.split("."):
                assert len(part) < 9 or part not in written
            assert base64url(token.encode()) not in written


class TestRenewal:
    async def test_in_place(self) -> None:
        async with (
            gated() as (gate, clock),
            gate.connect(**by_header(hs256(claims(exp=NOW + 100)))) as client,
        ):
            await send(client, type="subscribe", topics=["location:L1"])
            await next_message(client, "snapshot")
            clock.now += 40
            expiring = await next_message(client, "auth_expiring")
            assert expiring["expires_at"] == "2027-01-15T08:01:40.000Z"
            await send(client, type="auth", id="r", token=hs256(claims(exp=NOW + 1000)))
            assert (await next_message(client, "authenticated"))["id"] == "r"
            clock.now += 100
            await asyncio.sleep(0.6)
            gate.feed.change("location:L1", stock("A", 3))
            assert (await next_message(client, "delta"))["topic"] == "location:L1"

    @pytest.mark.parametrize(
        "other", [{"sub": "till-2"}, {"vendor_id": "W"}, {"vendor_id": "*"}, {"vendor_id": None}]
    )
    async def test_of_somebody_else_changes_nothing(self, other: dict[str, Any]) -> None:
        async with gated() as (gate, _), gate.connect(**by_header(hs256(claims()))) as client:
            await send(client, type="subscribe", topics=["location:L1"])
            await next_message(client, "snapshot")
            token = hs256(claims(exp=NOW + 5000, **other))
            await send(client, type="auth", id="r", token=token)
            error = await next_message(client, "error")
            assert (error["code"], error["id"]) == ("forbidden", "r")
            gate.feed.change("location:L1", stock("A", 3))
            assert (await next_message(client, "delta"))["topic"] == "location:L1"

    async def test_narrowed_scopes_end_subscriptions_at_once(self) -> None:
        async with gated() as (gate, _):
            token = hs256(claims(locations=["L1", "L2"]))
            async with gate.connect("/realtime?topics=location:L1,location:L2", **by_header(token)) as client:
                for _ in range(2):
                    await next_message(client, "snapshot")
                await send(client, type="auth", id="r", token=hs256(claims(locations=["L2"])))
                await next_message(client, "authenticated")
                ended = await next_message(client, "unsubscribed")
                assert ended == {"type": "unsubscribed", "topic": "location:L1", "reason": "scope_changed"}
                gate.feed.change("location:L1", stock("A", 3))
                gate.feed.change("location:L2", stock("A", 4, location_id="L2"))
                assert (await next_message(client, "delta"))["topic"] == "location:L2"
                assert gate.realtime.hub.topic("location:L1") is None


class TestTheEnd:
    async def test_4401_without_renewal(self) -> None:
        async with gated() as (gate, clock), gate.connect(**by_header(hs256(claims(exp=NOW + 30)))) as client:
            assert (await next_message(client, "welcome"))["principal"] == "till-1"
            await next_message(client, "auth_expiring")
            clock.now += 31
            assert await closed_with(client) == 4401
            await eventually(lambda: gate.realtime.statistics()["gateway_connections"] == 0)
            assert gate.realtime.entrance.statistics()["gateway_authenticated_connections"] == 0


class TestTheCrowdAtTheDoor:
    async def test_those_who_say_nothing_are_counted(self) -> None:
        async with gated(max_unauthenticated=2, auth_timeout_s=5) as (gate, _):
            async with gate.connect() as first, gate.connect() as second:
                for client in (first, second):
                    await next_message(client, "welcome")
                async with gate.connect() as third:
                    assert await closed_with(third) == 4429
                async with gate.connect(**by_header(hs256(claims()))) as known:
                    assert (await next_message(known, "welcome"))["principal"] == "till-1"
                await send(first, type="auth", token=hs256(claims()))
                await next_message(first, "authenticated")
                async with gate.connect() as fourth:
                    await next_message(fourth, "welcome")
                    await send(fourth, type="ping")
                    await next_message(fourth, "pong")
            await eventually(
                lambda: gate.realtime.entrance.statistics()["gateway_unauthenticated_connections"] == 0
            )


class TestConnectionsOfOnePrincipal:
    async def test_a_subject_has_so_many_however_its_token_comes(self) -> None:
        token = hs256(claims())
        async with gated(PUBLIC, max_per_principal=1) as (gate, _):
            async with gate.connect(**by_header(token)) as first:
                await next_message(first, "welcome")
                async with gate.connect(**by_header(token)) as second:
                    error = await next_message(second, "error")
                    assert (error["code"], error["retry_after_ms"]) == ("rate_limited", 5000)
                    assert await closed_with(second) == 4429
                async with gate.connect() as third:
                    await send(third, type="auth", token=token)
                    assert (await next_message(third, "error"))["code"] == "rate_limited"
                    assert await closed_with(third) == 4429
                async with gate.connect(**by_header(hs256(claims(sub="till-2")))) as other:
                    assert (await next_message(other, "welcome"))["principal"] == "till-2"
                await send(first, type="auth", id="a", token=token)  # renewed: it is one still
                assert (await next_message(first, "authenticated"))["id"] == "a"
            assert gate.realtime.entrance.refused == {"unauthenticated": 0, "principal": 2}
            await eventually(
                lambda: not gate.realtime.entrance.statistics()["gateway_authenticated_connections"]
            )
            async with gate.connect(**by_header(token)) as again:
                assert (await next_message(again, "welcome"))["principal"] == "till-1"

    async def test_anonymous_ones_are_not_counted(self) -> None:
        async with (
            gated(PUBLIC, max_per_principal=1) as (gate, _),
            gate.connect() as first,
            gate.connect() as second,
        ):
            for client in (first, second):
                await send(client, type="ping")
                await next_message(client, "pong")

    async def test_whoever_is_sent_away_makes_room(self) -> None:
        async with gated(max_per_principal=1) as (gate, clock):
            for way in ("expired", "revoked"):
                async with gate.connect(**by_header(hs256(claims(exp=clock.now + 60)))) as first:
                    await next_message(first, "welcome")
                    if way == "expired":
                        clock.now += 70
                    else:
                        gate.realtime.entrance.revoked(lambda _: True)
                    assert await closed_with(first) == 4401
                    async with gate.connect(**by_header(hs256(claims(exp=clock.now + 60)))) as second:
                        await send(second, type="ping")
                        await next_message(second, "pong")


class TestAnUnknownKey:
    """While it is looked for nothing else of the client is read, and nothing is lost."""

    @asynccontextmanager
    async def provided(self) -> AsyncIterator[tuple[Gate, ProviderKey, asyncio.Event]]:
        key, found = ProviderKey("k", "ES256"), asyncio.Event()
        verifier = TokenVerifier(TokenRules(), KeyRing(algorithms=["ES256"]), clock=lambda: NOW)

        def keep(keys: Sequence[SigningKey]) -> None:
            verifier.ring = verifier.ring.with_published(keys)

        async def fetch() -> bytes:
            await found.wait()
            return orjson.dumps({"keys": [key.public()]})

        watch = KeySetWatch(fetch, keep, algorithms=["ES256"], refresh_s=300)
        authority = Authority(verifier, key_set=watch, patience_s=2)
        entrance = Entrance(anonymous=None, authority=authority, clock=lambda: NOW)
        task = asyncio.create_task(watch.run())
        try:
            async with make_gate(entrance=entrance, auth_timeout_s=3) as gate:
                yield gate, key, found
        finally:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    async def test_with_the_handshake(self) -> None:
        async with (
            self.provided() as (gate, key, found),
            gate.connect(**by_header(key.sign(claims()))) as client,
        ):
            await send(client, type="subscribe", id="s", topics=["location:L1"])
            await send(client, type="ping", id="p")
            asyncio.get_running_loop().call_later(0.1, found.set)
            assert (await next_message(client, "welcome"))["principal"] == "till-1"
            assert (await next_message(client, "pong"))["id"] == "p"
            assert (await next_message(client, "snapshot"))["id"] == "s"

    async def test_in_a_message(self) -> None:
        async with self.provided() as (gate, key, found), gate.connect() as client:
            await next_message(client, "welcome")
            await send(client, type="auth", id="a", token=key.sign(claims()))
            for n in range(100):
                await send(client, type="ping", id=str(n))
            await send(client, type="auth", id="b", token=key.sign(claims()))
            await send(client, type="subscribe", id="s", topics=["location:L1"])
            asyncio.get_running_loop().call_later(0.1, found.set)
            assert orjson.loads(await client.recv())["type"] == "authenticated"
            ids = [(await next_message(client, "pong"))["id"] for _ in range(100)]
            assert ids == [str(n) for n in range(100)]
            assert (await next_message(client, "authenticated"))["id"] == "b"
            assert (await next_message(client, "snapshot"))["id"] == "s"

    async def test_one_that_can_not_be_had_is_not_the_clients_fault(self) -> None:
        async with self.provided() as (gate, key, _), gate.connect(**by_header(key.sign(claims()))) as client:
            heard: list[dict[str, Any]] = []
            assert await closed_with(client, heard=heard) == 1013
            assert heard[-1]["code"] == "unavailable"
            assert heard[-1]["retry_after_ms"] == 5000

    async def test_a_client_that_leaves_meanwhile(self) -> None:
        async with self.provided() as (gate, key, found):
            async with gate.connect(**by_header(key.sign(claims()))):
                pass
            found.set()
            await eventually(lambda: gate.realtime.statistics()["gateway_connections"] == 0)
            async with gate.connect(**by_header(key.sign(claims()))) as client:
                assert (await next_message(client, "welcome"))["principal"] == "till-1"


class TestTooManyTokens:
    """One at once, and another a minute later."""

    @staticmethod
    def rates(shared: SharedCounts | None = None) -> Rates:
        return Rates({RateKind.AUTH: RateLimit(1 / 60, 1)}, shared)

    async def test_of_who_has_to_show_one(self) -> None:
        async with gated(rates=self.rates()) as (gate, _):
            async with gate.connect() as client:
                await send(client, type="auth", token=hs256(claims()))
                await next_message(client, "authenticated")
            heard: list[dict[str, Any]] = []
            async with gate.connect() as client:
                await send(client, type="auth", id="a", token=hs256(claims()))
                assert await closed_with(client, heard=heard) == 4429
            error = heard[-1]
            assert (error["type"], error["code"], error["id"]) == ("error", "rate_limited", "a")
            assert 50_000 < error["retry_after_ms"] <= 60_001

    async def test_a_renewal_that_has_to_wait_changes_nothing(self) -> None:
        async with (
            gated(rates=self.rates()) as (gate, _),
            gate.connect(**by_header(hs256(claims()))) as client,
        ):
            await send(client, type="auth", id="r1", token=hs256(claims()))
            await next_message(client, "authenticated")
            await send(client, type="auth", id="r2", token=hs256(claims(), secret=b"x" * 32))
            await send(client, type="ping", id="p")
            error = await next_message(client, "error")
            assert (error["code"], error["id"]) == ("rate_limited", "r2")
            assert (await next_message(client, "pong"))["id"] == "p"

    async def test_who_leaves_while_redis_is_asked(self) -> None:
        shared = SharedCounts()
        shared.answer = None
        async with gated(rates=self.rates(shared)) as (gate, _):
            async with gate.connect() as client:
                await send(client, type="auth", token=hs256(claims()))
                await eventually(lambda: len(shared.futures) == 1)
            await eventually(lambda: gate.realtime.statistics()["gateway_connections"] == 0)
            if not shared.futures[0].done():  # else the timeout has come first
                shared.futures[0].set_result(0.0)
            assert gate.realtime.entrance.statistics()["gateway_authenticated_connections"] == 0
