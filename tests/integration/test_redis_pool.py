"""The pool of connections to Redis over a link that dies in silence."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from listeners.errors import Unavailable
from listeners.redis_client import connect_redis, translated
from tests.support.proxy import TcpProxy, proxied

PATIENCE_S = 1.0
WARM = 12


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[tuple[TcpProxy, Redis]]:
    """A client with idle connections, and the proxy that they go through."""
    async with proxied(redis_url) as (proxy, url):
        client = connect_redis(url, timeout_s=PATIENCE_S)
        assert isinstance(client, Redis)
        async with asyncio.TaskGroup() as group:
            for _ in range(WARM):
                group.create_task(ping(client))
        assert proxy.connections == WARM
        yield proxy, client
        await client.aclose()


async def ping(client: Redis) -> bool:
    with translated():
        return bool(await client.ping())


class TestIdleConnectionsThatDiedInSilence:
    async def test_cost_one_timeout_together(self, link: tuple[TcpProxy, Redis]) -> None:
        proxy, client = link
        proxy.black_hole()
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await ping(client)
        for _ in range(WARM):
            assert await ping(client)
        assert time.monotonic() - began < 3 * PATIENCE_S

    async def test_stay_when_a_reply_was_an_error(self, link: tuple[TcpProxy, Redis]) -> None:
        proxy, client = link
        before = proxy.accepted
        with pytest.raises(Exception, match="unknown command"):
            await client.execute_command("NONSENSE")  # type: ignore[no-untyped-call]  # a gap of redis-py
        for _ in range(3):
            assert await ping(client)
        assert proxy.accepted == before

    async def test_are_taken_by_others_while_they_are_dropped(self, link: tuple[TcpProxy, Redis]) -> None:
        proxy, client = link
        proxy.black_hole()
        asked = [asyncio.create_task(ping(client)) for _ in range(WARM // 2)]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert await asyncio.gather(*(ping(client) for _ in range(WARM // 2))) == [True] * (WARM // 2)
        told = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(error, Unavailable) for error in told)
