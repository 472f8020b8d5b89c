"""Rate limits in a real Redis, and in a cluster of three primaries."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from listeners.keys import Keys
from listeners.rate_store import RateStore
from listeners.redis_client import connect_redis
from protocol.errors import ErrorCode, ProtocolError
from tests.support.cluster import embedded_cluster
from tests.support.ports import free_port


@asynccontextmanager
async def opened(url: str, prefix: str) -> AsyncIterator[RateStore]:
    client = connect_redis(url)
    try:
        yield RateStore(client, Keys(prefix))
    finally:
        await client.aclose()


@pytest.fixture
async def store(redis_url: str, redis_prefix: str) -> AsyncIterator[RateStore]:
    async with opened(redis_url, redis_prefix) as store:
        yield store


async def take(store: RateStore, who: str = "w", cost: float = 1, *, per_s: float, burst: float) -> float:
    return await store.take_nowait("http", who, cost=cost, per_s=per_s, burst=burst)


async def owe(store: RateStore, cost: float, *, per_s: float, burst: float) -> float:
    return await store.take_nowait("http", "w", cost=cost, per_s=per_s, burst=burst, owed=True)


async def test_a_burst_and_then_the_rate(store: RateStore) -> None:
    waits = [await take(store, per_s=0.1, burst=3) for _ in range(5)]
    assert waits[:3] == [0, 0, 0]
    assert all(9 < wait_s <= 10 for wait_s in waits[3:])


async def test_what_was_waited_for_is_there(store: RateStore) -> None:
    for _ in range(2):
        assert await take(store, per_s=20, burst=2) == 0
    wait_s = await take(store, per_s=20, burst=2)
    assert 0 < wait_s <= 0.05
    await asyncio.sleep(wait_s + 0.001)
    assert await take(store, per_s=20, burst=2) == 0


async def test_two_replicas_share_it(redis_url: str, redis_prefix: str, store: RateStore) -> None:
    async with opened(redis_url, redis_prefix) as other:
        for one in (store, other, store, other):
            assert await take(one, per_s=0.01, burst=4) == 0
        assert await take(store, per_s=0.01, burst=4) > 0
        assert await take(other, per_s=0.01, burst=4) > 0


async def test_everybody_on_their_own(store: RateStore) -> None:
    assert await take(store, "a", per_s=0.01, burst=1) == 0
    assert await take(store, "b", per_s=0.01, burst=1) == 0
    assert await store.take_nowait("auth", "a", cost=1, per_s=0.01, burst=1) == 0
    assert await take(store, "a", per_s=0.01, burst=1) > 0


async def test_a_refusal_takes_nothing(store: RateStore) -> None:
    assert await take(store, cost=3, per_s=0.1, burst=4) == 0
    assert await take(store, cost=2, per_s=0.1, burst=4) > 9
    assert await take(store, cost=1, per_s=0.1, burst=4) == 0


async def test_more_than_a_burst_passes_when_it_is_whole_and_is_paid_back(store: RateStore) -> None:
    assert await take(store, cost=20, per_s=1, burst=10) == 0
    assert 10 < await take(store, cost=1, per_s=1, burst=10) <= 11


async def test_what_is_owed_is_taken_whatever_is_left(store: RateStore) -> None:
    assert await owe(store, 6, per_s=1, burst=10) == 0
    assert 1 < await owe(store, 6, per_s=1, burst=10) <= 2
    assert 2 < await take(store, per_s=1, burst=10) <= 3


async def test_nobody_owes_more_than_three_bursts(store: RateStore) -> None:
    for _ in range(2):
        assert 29 < await owe(store, 1e9, per_s=1, burst=10) <= 30


async def test_a_clock_that_was_set_back_shuts_nobody_out_for_longer(
    store: RateStore, redis: Redis, redis_prefix: str
) -> None:
    tomorrow_us = (int(time.time()) + 86_400) * 1_000_000
    await redis.set(Keys(redis_prefix).rate("http", "w"), f"3000000 {tomorrow_us}")
    assert await owe(store, 9, per_s=1, burst=10) == pytest.approx(2, abs=0.5)


async def test_a_limit_that_was_made_smaller_is_owed_no_more_than_that(
    store: RateStore, redis: Redis, redis_prefix: str
) -> None:
    now_us = int(time.time()) * 1_000_000
    await redis.set(Keys(redis_prefix).rate("http", "w"), f"{86_400 * 1_000_000} {now_us}")
    assert 30 < await take(store, per_s=1, burst=10) <= 31


async def test_a_key_ends_when_its_limit_is_whole(store: RateStore, redis: Redis, redis_prefix: str) -> None:
    await take(store, cost=5, per_s=1, burst=10)
    assert 4000 < await redis.pttl(Keys(redis_prefix).rate("http", "w")) <= 5000


async def test_high_rates_are_kept(store: RateStore) -> None:
    """A row a microsecond is far above what a process can send."""
    assert 0.4 < await owe(store, 1_500_000, per_s=1e6, burst=1e6) <= 0.5


async def test_what_is_asked_in_one_turn_goes_in_one_round_trip(
    store: RateStore, redis: Redis, redis_prefix: str
) -> None:
    async def calls() -> int:
        stats = await redis.info("commandstats")
        return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval"))

    await take(store, per_s=1, burst=1)
    before = await calls()
    waits = await asyncio.gather(*(take(store, f"{n}", per_s=1, burst=1) for n in range(10_000)))
    assert set(waits) == {0.0}
    assert await calls() - before < 200


async def test_nobody_there() -> None:
    async with opened(f"redis://127.0.0.1:{free_port()}", "t") as store:
        with pytest.raises(ProtocolError) as raised:
            await take(store, per_s=1, burst=1)
        assert raised.value.code is ErrorCode.UNAVAILABLE


async def test_on_a_cluster(tmp_path: Path) -> None:
    async with (
        embedded_cluster(tmp_path) as cluster,
        opened(cluster.url, "t") as store,
        opened(cluster.url, "t") as other,
    ):
        for one in (store, other):
            asks = (take(one, f"{n}", per_s=0.001, burst=2) for n in range(200))
            assert set(await asyncio.gather(*asks)) == {0.0}
        asks = (take(store, f"{n}", per_s=0.001, burst=2) for n in range(200))
        assert min(await asyncio.gather(*asks)) > 900
