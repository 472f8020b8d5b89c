"""The keys of a provider, kept current: GATEWAY_JWKS_URL."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import orjson
import pytest

from gateway.auth.algorithms import ASYMMETRIC
from gateway.auth.authority import Authority
from gateway.auth.errors import BadToken, Reason
from gateway.auth.fetching import FetchFailed
from gateway.auth.jwks import KeySetWatch
from gateway.auth.keys import KeyRing, SigningKey
from gateway.auth.tokens import TokenRules, TokenVerifier
from protocol.errors import ErrorCode, ProtocolError
from tests.support.tokens import NOW, ProviderKey, base64url, claims
from tests.support.waiting import eventually

OLD, NEW = ProviderKey("old", "ES256"), ProviderKey("new", "ES256")


class Provider:
    """Publishes `keys`, or fails; `gate` holds the answer back."""

    def __init__(self, *keys: ProviderKey) -> None:
        self.keys: Sequence[ProviderKey] = keys
        self.body: bytes | None = None
        self.failing = False
        self.fetches = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.now = 1000.0
        self.verifier = TokenVerifier(TokenRules(), KeyRing(algorithms=ASYMMETRIC), clock=lambda: NOW)
        self.watch = KeySetWatch(
            self.fetch, self.keep, algorithms=ASYMMETRIC, refresh_s=300, clock=lambda: self.now
        )
        self.authority = Authority(self.verifier, key_set=self.watch, patience_s=0.2)

    def keep(self, keys: Sequence[SigningKey]) -> None:
        self.verifier.ring = self.verifier.ring.with_published(keys)

    async def fetch(self) -> bytes:
        self.fetches += 1
        await self.gate.wait()
        if self.failing:
            raise FetchFailed("away")
        return self.body or orjson.dumps({"keys": [key.public() for key in self.keys]})

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Provider"]:
        task = asyncio.create_task(self.watch.run())
        try:
            await eventually(lambda: sum(self.watch.fetches.values()) or not self.gate.is_set())
            yield self
        finally:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


async def refusal(answer: Awaitable[object]) -> ProtocolError:
    with pytest.raises(ProtocolError) as raised:
        await answer
    return raised.value


async def test_keys_are_read_at_the_start() -> None:
    async with Provider(OLD).running() as provider:
        assert provider.authority.check_nowait(OLD.sign(claims())).name == "till-1"


async def test_who_comes_before_the_first_keys_waits_for_them() -> None:
    provider = Provider(OLD)
    provider.gate.clear()
    async with provider.running():
        asyncio.get_running_loop().call_later(0.02, provider.gate.set)
        assert (await provider.authority.check(OLD.sign(claims()))).name == "till-1"
        assert provider.fetches == 1


async def test_an_unknown_key_is_looked_for_once() -> None:
    async with Provider(OLD).running() as provider:
        provider.keys = [OLD, NEW]
        provider.now += 31
        tokens = [NEW.sign(claims()) for _ in range(20)]
        principals = await asyncio.gather(*(provider.authority.check(token) for token in tokens))
        assert {principal.name for principal in principals} == {"till-1"}
        assert provider.fetches == 2


async def test_a_flood_of_unknown_keys_is_one_fetch_in_30_s() -> None:
    async with Provider(OLD).running() as provider:
        fetched: list[int] = []
        for _ in range(3):
            provider.now += 29.9
            for n in range(50):
                error = await refusal(provider.authority.check(NEW.sign(claims(), kid=f"k{n}")))
                assert error.code is ErrorCode.UNAUTHENTICATED
            fetched.append(provider.fetches)
        assert fetched == [1, 2, 2]


async def test_an_algorithm_that_is_not_allowed_causes_no_fetch() -> None:
    async with Provider(OLD).running() as provider:
        provider.now += 100
        for algorithm in ("none", "HS256", "RS512"):
            header = {"alg": algorithm, "kid": "unheard-of"}
            token = NEW.sign(claims()).split(".")
            token[0] = base64url(orjson.dumps(header))
            error = await refusal(provider.authority.check(".".join(token)))
            assert isinstance(error, BadToken)
            assert error.reason is Reason.ALGORITHM
        assert provider.fetches == 1


@pytest.mark.parametrize(
    "break_it",
    [
        lambda provider: setattr(provider, "failing", True),
        lambda provider: setattr(provider, "body", b"<html>sorry</html>"),
        lambda provider: setattr(provider, "body", b'{"keys": []}'),
    ],
)
async def test_old_keys_stay_while_new_ones_can_not_be_had(break_it: Callable[[Provider], None]) -> None:
    async with Provider(OLD).running() as provider:
        break_it(provider)
        provider.now += 31
        error = await refusal(provider.authority.check(NEW.sign(claims())))
        # It may well be good: it is not the client's fault that nobody can tell.
        assert (error.code, error.retry_after_ms) == (ErrorCode.UNAVAILABLE, 5000)
        assert provider.watch.fetches["failure"] == 1
        assert provider.authority.check_nowait(OLD.sign(claims())).name == "till-1"
        assert provider.watch.age_s() == 31


async def test_a_provider_that_hangs_costs_patience_and_no_more() -> None:
    provider = Provider(OLD)
    provider.gate.clear()
    async with provider.running():
        error = await refusal(provider.authority.check(OLD.sign(claims())))
        assert error.code is ErrorCode.UNAVAILABLE


async def test_a_key_that_was_withdrawn_is_gone() -> None:
    async with Provider(OLD, NEW).running() as provider:
        provider.keys = [NEW]
        provider.now += 31
        await refusal(provider.authority.check(NEW.sign(claims(), kid="third")))
        error = await refusal(provider.authority.check(OLD.sign(claims())))
        assert error.code is ErrorCode.UNAUTHENTICATED


async def test_what_is_counted() -> None:
    async with Provider(OLD).running() as provider:
        provider.authority.check_nowait(OLD.sign(claims()))
        await refusal(provider.authority.check(OLD.sign(claims(exp=NOW - 60))))
        await refusal(provider.authority.check(NEW.sign(claims())))
        await refusal(provider.authority.check("?"))
        readings = provider.authority.statistics()
        assert readings["gateway_tokens_accepted"] == 1
        assert readings["gateway_tokens_refused"] == {"expired": 1, "key": 1, "malformed": 1}
        assert readings["gateway_key_set_fetches"] == {"success": 1, "failure": 0}
