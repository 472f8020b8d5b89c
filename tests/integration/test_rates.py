"""Rate limits on real servers and two replicas: what is refused, how, and what Redis being away means."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import asyncpg
import httpx
import orjson
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from gateway.auth.minting import mint_token
from listeners.embedded import ValkeyServer
from protocol.principal import EVERY, Permission
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.messages import next_message
from tests.support.tokens import SECRET
from tests.support.waiting import eventually

READ = [Permission.READ_EXACT, Permission.READ_PUBLIC]
ROWS = 300
# Each test has its own limit alone: one a second, a hundred at once.
OFF = dict.fromkeys(("snapshot_rows_per_s", "http_requests_per_s", "auth_per_s", "tickets_per_s"), 0)
BURST = 10
# What may come back in the seconds that a test takes.
SLACK = 30


class Two(NamedTuple):
    one: RunningGateway
    other: RunningGateway


@pytest.fixture
async def shop_url(pg: asyncpg.Connection, database_url: str) -> str:
    await pg.execute(
        """
        INSERT INTO vendors (vendor_id, name) VALUES ('V', 'Vendor');
        INSERT INTO locations (location_id, vendor_id, name) VALUES ('L1', 'V', 'One'), ('L2', 'V', 'Two');
        """
    )
    await pg.execute(
        f"""
        INSERT INTO products (product_id, vendor_id, name)
            SELECT 'P' || n, 'V', 'Product' FROM generate_series(1, {ROWS}) AS n;
        INSERT INTO inventory (product_id, location_id, vendor_id, on_hand)
            SELECT 'P' || n, 'L1', 'V', 7 FROM generate_series(1, {ROWS}) AS n;
        """
    )
    return database_url


@pytest.fixture
async def two(
    request: pytest.FixtureRequest, shop_url: str, redis_url: str, redis_prefix: str
) -> AsyncIterator[Two]:
    """Replicas with the limit that the test names."""
    settings: dict[str, Any] = {"jwt_secret": SECRET, **OFF, request.param: 1}
    async with (
        running_gateway(shop_url, redis_url, redis_prefix, **settings) as one,
        running_gateway(shop_url, redis_url, redis_prefix, relay="off", **settings) as other,
    ):
        for gateway in (one, other):
            await eventually(gateway.is_ready, timeout_s=15)
        yield Two(one, other)


def limited(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("two", [name], indirect=True)


def token(subject: str = "till") -> str:
    return mint_token(SECRET, subject=subject, vendor="V", locations=(EVERY,), permissions=READ, ttl_s=600)


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


async def send(client: ClientConnection, **message: Any) -> None:
    await client.send(orjson.dumps(message).decode())


async def answered(client: ClientConnection, **message: Any) -> Any:
    """What is said first about the request."""
    await send(client, **message)
    about = message.get("topics", [None])[0]
    async with asyncio.timeout(10):
        while True:
            answer = orjson.loads(await client.recv())
            answers = answer["type"] in ("snapshot", "resumed", "error", "authenticated")
            if answers and about in (None, answer.get("topic")):
                return answer


async def reading(gateway: RunningGateway, name: str) -> float:
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(f"{gateway.ops_url}/metrics")).text
    match = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert match is not None, name
    return float(match[1])


def assert_told_when(answer: httpx.Response) -> None:
    assert answer.status_code == 429
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == "rate_limited"
    assert 0 < problem["retry_after_ms"] <= 3 * 1000 * BURST + 1
    assert int(answer.headers["retry-after"]) == -(-problem["retry_after_ms"] // 1000)


async def passed_until_refused(two: Two, method: str, path: str, headers: dict[str, str]) -> int:
    """Requests to the replicas in turn that are answered, until both refuse."""
    passed = 0
    async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
        refused: set[str] = set()
        while len(refused) < 2:
            for gateway in two:
                answer = await http.request(method, gateway.http_url + path, headers=headers)
                if answer.status_code == 429:
                    assert_told_when(answer)
                    refused.add(gateway.http_url)
                else:
                    assert answer.is_success, answer.text
                    passed += 1
            assert passed < 10 * BURST
    return passed


class TestShared:
    @limited("snapshot_rows_per_s")
    async def test_snapshot_rows(self, two: Two) -> None:
        async with two.one.connect() as first, two.other.connect() as second:
            assert (await answered(first, type="subscribe", topics=["location:L1"]))["type"] == "snapshot"
            error = await answered(first, type="subscribe", id="s", topics=["product:P2"])
            assert (error["code"], error["id"], error["topic"]) == ("rate_limited", "s", "product:P2")
            assert 1000 * BURST < error["retry_after_ms"] <= 3 * 1000 * BURST + 1

            # The other replica learns of it by the first snapshot of its own.
            assert (await answered(second, type="subscribe", topics=["product:P3"]))["type"] == "snapshot"

            async def refused() -> bool:
                await send(second, type="unsubscribe", topics=["product:P3"])
                answer = await answered(second, type="subscribe", topics=["product:P3"])
                return bool(answer["type"] == "error" and answer["code"] == "rate_limited")

            await eventually(refused)
        assert await reading(two.one, 'gateway_rate_refused_total{kind="rows"}') == 1
        # Whoever has a token is somebody else, and has a limit of its own.
        async with two.one.connect(additional_headers=bearer(token())) as till:
            assert (await answered(till, type="subscribe", topics=["product:P2"]))["type"] == "snapshot"

    @limited("snapshot_rows_per_s")
    async def test_rows_over_http(self, two: Two) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
            page = f"{two.one.http_url}/v1/locations/L1/stock?limit={ROWS}"
            assert (await http.get(page)).is_success
            assert_told_when(await http.get(f"{two.one.http_url}/v1/products/P1"))

    @limited("http_requests_per_s")
    async def test_requests(self, two: Two) -> None:
        passed = await passed_until_refused(two, "GET", "/v1/locations/L2/stock", {})
        assert BURST <= passed <= BURST + SLACK
        async with httpx.AsyncClient(trust_env=False) as http:
            for path, method in (("/v1/products/P1", "GET"), ("/v1/vendors/V/stock", "GET")):
                assert_told_when(await http.request(method, two.one.http_url + path))
            assert_told_when(await http.post(f"{two.one.http_url}/v1/operations"))
            answer = await http.get(f"{two.one.http_url}/v1/locations/L2/stock", headers=bearer(token()))
            assert answer.is_success

    @limited("tickets_per_s")
    async def test_tickets(self, two: Two) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
            passed = await passed_until_refused(two, "POST", "/v1/tickets", bearer(token()))
            assert BURST <= passed <= BURST + SLACK
            answer = await http.post(f"{two.one.http_url}/v1/tickets", headers=bearer(token("another")))
            assert answer.is_success

    @limited("auth_per_s")
    async def test_renewals(self, two: Two) -> None:
        async with (
            two.one.connect(additional_headers=bearer(token())) as first,
            two.other.connect(additional_headers=bearer(token())) as second,
        ):
            for n in range(BURST):
                answer = await answered((first, second)[n % 2], type="auth", token=token())
                assert answer["type"] == "authenticated"
            for client in (first, second):
                error: Any = {}
                for _ in range(SLACK):
                    if error.get("type") != "error":
                        error = await answered(client, type="auth", id="r", token=token())
                assert (error["type"], error["code"], error["id"]) == ("error", "rate_limited", "r")
                assert 0 < error["retry_after_ms"] <= 2000
                await send(client, type="ping", id="p")  # the connection stays
                assert (await next_message(client, "pong"))["id"] == "p"

    @limited("auth_per_s")
    async def test_bad_tokens_over_http(self, two: Two) -> None:
        """Beyond the limit none is checked, whosever it is."""
        async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
            url, bad = f"{two.one.http_url}/v1/products/P1", bearer("x")
            statuses = [(await http.get(url, headers=bad)).status_code for _ in range(BURST + SLACK)]
            assert statuses[:BURST] == [401] * BURST
            assert 429 in statuses[BURST:]


async def test_tokens_of_who_has_none(shop_url: str, redis_url: str, redis_prefix: str) -> None:
    """Who may do nothing else meanwhile is sent away with the time to come back."""
    settings: dict[str, Any] = {"jwt_secret": SECRET, "anonymous": "off", **OFF, "auth_per_s": 1}
    async with running_gateway(shop_url, redis_url, redis_prefix, **settings) as gateway:
        await eventually(gateway.is_ready, timeout_s=15)
        for n in range(2 * BURST):
            async with gateway.connect() as client:
                answer = await answered(client, type="auth", token=token(f"t{n}"))
                if answer["type"] == "error":
                    break
        assert BURST <= n <= BURST + SLACK
        assert answer["code"] == "rate_limited"
        assert 0 < answer["retry_after_ms"] <= 1001
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4429


async def test_without_limits_redis_is_not_asked(
    shop_url: str, redis_url: str, redis_prefix: str, redis: Any
) -> None:
    settings: dict[str, Any] = {"jwt_secret": SECRET, **OFF}
    async with running_gateway(shop_url, redis_url, redis_prefix, **settings) as gateway:
        await eventually(gateway.is_ready, timeout_s=15)
        async with gateway.connect(additional_headers=bearer(token())) as client, httpx.AsyncClient() as http:
            assert (await answered(client, type="subscribe", topics=["product:P1"]))["type"] == "snapshot"
            assert (await answered(client, type="auth", token=token()))["type"] == "authenticated"
            assert (await http.get(f"{gateway.http_url}/v1/products/P1")).is_success
            assert (await http.post(f"{gateway.http_url}/v1/tickets", headers=bearer(token()))).is_success
        assert [key async for key in redis.scan_iter(f"{redis_prefix}:*:q:*")] == []


async def test_redis_goes_away_and_comes_back(
    shop_url: str, private_valkey: ValkeyServer, redis_prefix: str
) -> None:
    settings: dict[str, Any] = {"jwt_secret": SECRET, **OFF, "auth_per_s": 1}
    alone, unshared = "gateway_rate_limits_alone", 'gateway_rate_unshared_total{kind="auth"}'
    async with running_gateway(shop_url, private_valkey.url, redis_prefix, **settings) as gateway:
        await eventually(gateway.is_ready, timeout_s=15)
        async with gateway.connect(additional_headers=bearer(token())) as client:
            loop = asyncio.get_running_loop()

            async def renewed() -> tuple[str, float]:
                begun = loop.time()
                answer = await answered(client, type="auth", token=token())
                return answer["type"], loop.time() - begun

            assert (await renewed())[0] == "authenticated"
            assert (await reading(gateway, alone), await reading(gateway, unshared)) == (0, 0)

            await private_valkey.kill()
            assert (await renewed())[0] == "authenticated"
            assert await reading(gateway, alone) == 1
            assert await reading(gateway, unshared) >= 1
            # This process' own limit holds, and nobody waits for Redis.
            kinds = [await renewed() for _ in range(BURST + SLACK)]
            assert [kind for kind, _ in kinds[: BURST - 3]] == ["authenticated"] * (BURST - 3)
            assert "error" in {kind for kind, _ in kinds[BURST - 3 :]}
            assert sorted(took_s for _, took_s in kinds)[len(kinds) // 2] < 0.1

            await private_valkey.restart()

            async def shared_again() -> bool:
                async with gateway.connect(additional_headers=bearer(token("another"))) as another:
                    await answered(another, type="auth", token=token("another"))
                return await reading(gateway, alone) == 0

            await eventually(shared_again, timeout_s=20)
            before = await reading(gateway, unshared)
            async with gateway.connect(additional_headers=bearer(token("third"))) as third:
                assert (await answered(third, type="auth", token=token("third")))["type"] == "authenticated"
            assert await reading(gateway, unshared) == before


async def test_redis_hangs(shop_url: str, private_valkey: ValkeyServer, redis_prefix: str) -> None:
    """Nobody waits longer than the timeout, and only those who have asked when nothing was known of it."""
    settings: dict[str, Any] = {"jwt_secret": SECRET, **OFF, "auth_per_s": 1}
    async with running_gateway(shop_url, private_valkey.url, redis_prefix, **settings) as gateway:
        await eventually(gateway.is_ready, timeout_s=15)
        async with gateway.connect(additional_headers=bearer(token())) as client:
            assert (await answered(client, type="auth", token=token()))["type"] == "authenticated"
            private_valkey.pause()
            try:
                async with asyncio.timeout(1.5):
                    for _ in range(BURST - 2):
                        assert (await answered(client, type="auth", token=token()))["type"] == "authenticated"
                assert await reading(gateway, "gateway_rate_limits_alone") == 1
            finally:
                private_valkey.resume()
