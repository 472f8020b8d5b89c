"""Limits of connections on real servers and two replicas, behind a proxy."""

from collections.abc import AsyncIterator
from contextlib import suppress

import asyncpg
import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from gateway.rates import RateKind, RateLimit, Rates
from listeners.keys import Keys
from listeners.rate_store import RateStore
from listeners.redis_client import connect_redis
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.messages import next_message
from tests.support.waiting import eventually

Replicas = tuple[RunningGateway, RunningGateway]


@pytest.fixture
async def replicas(
    pg: asyncpg.Connection, database_url: str, redis_url: str, redis_prefix: str
) -> AsyncIterator[Replicas]:
    settings = {"handshakes_per_address_per_s": 1, "trusted_proxies": "127.0.0.0/8"}
    async with (
        running_gateway(database_url, redis_url, redis_prefix, **settings) as one,
        running_gateway(database_url, redis_url, redis_prefix, relay="off", **settings) as other,
    ):
        await eventually(one.is_ready, timeout_s=15)
        yield one, other


async def comes(gateway: RunningGateway, address: str) -> int:
    """0; or 4429: it is refused."""
    async with gateway.connect(additional_headers={"X-Forwarded-For": address}) as client:
        await next_message(client, "welcome")
        with suppress(ConnectionClosed):
            await client.send('{"type":"ping"}')
            await next_message(client, "pong")
            return 0
    return client.close_code or 0


class TestHandshakes:
    async def test_a_burst_of_one_address(self, replicas: Replicas) -> None:
        one, _ = replicas
        came = [await comes(one, "198.51.100.1") for _ in range(14)]
        assert came[:10] == [0] * 10
        assert came[-1] == 4429
        assert await comes(one, "198.51.100.2") == 0

    async def test_what_all_replicas_have_seen(
        self, replicas: Replicas, redis_url: str, redis_prefix: str
    ) -> None:
        client = connect_redis(redis_url, timeout_s=5)
        try:
            third = Rates({RateKind.HANDSHAKES: RateLimit(1, 100)}, RateStore(client, Keys(redis_prefix)))
            third.charge(RateKind.HANDSHAKES, "address 198.51.100.1", 200)
            for replica in replicas:

                async def refused(replica: RunningGateway = replica) -> bool:
                    return await comes(replica, "198.51.100.1") == 4429

                await eventually(refused, timeout_s=5)
                assert await comes(replica, "198.51.100.2") == 0
        finally:
            await client.aclose()

    async def test_metrics_say_so(self, replicas: Replicas) -> None:
        one, _ = replicas
        for _ in range(12):
            await comes(one, "198.51.100.1")
        async with httpx.AsyncClient(trust_env=False) as http:
            lines = (await http.get(f"{one.ops_url}/metrics")).text.splitlines()
        counts = {
            head: float(value)
            for head, _, value in (line.rpartition(" ") for line in lines)
            if head[:1] != "#"
        }
        assert counts['gateway_connections_refused_total{reason="handshake_rate"}'] >= 1
        assert counts['gateway_connections_dropped_total{reason="half_open"}'] == 0
        assert counts["gateway_forwarded_ignored_total"] == 0
        assert counts['gateway_rate_passed_total{kind="handshakes"}'] >= 10
