"""Keys, scripts and sharded channels on a cluster, of one node here; and clients on servers that refuse."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ClusterDownError

from listeners.backoff import Backoff
from listeners.credential_store import CredentialStore
from listeners.embedded import embedded_valkey
from listeners.errors import Refused, StaleTerm, Unavailable
from listeners.keys import BUCKETS, Keys
from listeners.redis_bus import RedisBus
from listeners.redis_client import (
    AnyRedis,
    check_server,
    connect_redis,
    make_links,
    served_buckets,
    translated,
)
from listeners.redis_cluster import Address, ClusterClient
from listeners.topic_store import Applied, TopicStore
from protocol.envelope import Beat, Changed, NewGeneration, Ready, Voided
from tests.integration.test_bus import Heard, running
from tests.support.store import CHANGED_AT_MS, GENERATION, TERM, change, item, load
from tests.support.waiting import eventually


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[AnyRedis]:
    client = connect_redis(url, timeout_s=1.0)
    try:
        yield client
    finally:
        await client.aclose()


TOPICS = [f"product:{n}" for n in range(40)]


@pytest.fixture
async def cluster_url(tmp_path: Path) -> AsyncIterator[str]:
    async with embedded_valkey(tmp_path, args=("--cluster-enabled", "yes")) as server:
        node: Redis = Redis.from_url(server.url, protocol=2)
        await node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)  # type: ignore[no-untyped-call]  # a gap of redis-py

        async def settled() -> bool:
            info: dict[str, str] = await node.cluster("INFO")
            return info["cluster_state"] == "ok"

        await eventually(settled, timeout_s=15.0)
        await node.aclose()
        yield server.url.replace("redis://", "redis+cluster://")


async def test_store_and_bus_on_a_cluster(cluster_url: str) -> None:
    async with connected(cluster_url) as client:
        await check_server(client)
        keys = Keys()
        store = TopicStore(client, keys, cluster=True)
        bus = RedisBus(cluster_url, keys, cluster=True, backoff=Backoff(0.01, 0.05))
        heard = Heard()
        async with running(bus, heard):
            for topic in TOPICS:
                bus.subscribe_nowait(topic)
            for topic in TOPICS:
                await bus.wait_subscribed(topic, 5.0)
            assert bus.statistics().confirmed == len(TOPICS) + BUCKETS

            await store.begin(GENERATION, TERM)
            positions = {topic: await load(store, topic, [item("A", 1)]) for topic in TOPICS}
            changes = {topic: [change("A", 2)] for topic in TOPICS}
            applied = await store.apply(
                changes, generation=GENERATION, term=TERM, changed_at_ms=CHANGED_AT_MS
            )
            assert applied == Applied(len(TOPICS), 0)
            await store.beat(Beat(GENERATION, 1, 1), term=TERM)
            await store.void(TOPICS[:1], generation=GENERATION, term=TERM)
            await eventually(lambda: Voided(TOPICS[0]) in heard.messages)

            assert heard.messages.count(NewGeneration(GENERATION)) == BUCKETS
            assert heard.messages.count(Beat(GENERATION, 1, 1)) == 1
            for topic, (epoch, seq) in positions.items():
                assert Ready(topic, epoch, seq) in heard.messages
                assert Changed(topic, epoch, seq + 1, CHANGED_AT_MS, (item("A", 2),)) in heard.messages

        assert await store.loaded(TOPICS) == set(TOPICS[1:])
        assert len(await store.positions(TOPICS)) == len(TOPICS) - 1
        listed = [name for bucket in range(BUCKETS) async for page in store.names(bucket) for name in page]
        assert sorted(listed) == sorted(TOPICS[1:])
        stored = await store.read(TOPICS[1])
        assert stored is not None
        assert stored.items == [item("A", 2)]
        assert [page async for page in store.pages(TOPICS[1], stored.epoch)] == [[item("A", 2)]]
        assert await store.some(TOPICS[1], stored.epoch, ["stock:A:L1"]) == {"stock:A:L1": item("A", 2)}
        assert await store.log_since(TOPICS[1], stored.epoch, 1) == [
            Changed(TOPICS[1], stored.epoch, 2, CHANGED_AT_MS, (item("A", 2),))
        ]
        assert await store.remember_position(7) == 7
        assert await store.server_identity() == await store.server_identity()
        await store.begin(GENERATION, TERM + 1)
        with pytest.raises(StaleTerm):
            await store.beat(Beat(GENERATION, 1, 1), term=TERM)


async def test_signed_requests_are_remembered_by_the_whole_cluster(cluster_url: str) -> None:
    async with connected(cluster_url) as one, connected(cluster_url) as other:
        stores = [CredentialStore(client, Keys("s")) for client in (one, other)]
        names = [f"d{n}" for n in range(40)]  # on all buckets, most likely
        assert [await stores[0].remember(name, 30) for name in names] == [True] * len(names)
        assert [await stores[1].remember(name, 30) for name in names] == [False] * len(names)


async def test_a_cluster_s_links_serve_all_buckets(cluster_url: str) -> None:
    url = cluster_url.replace("://", "://:@")
    async with connected(url) as client:
        links = await make_links(url, client, timeout_s=2.0)
    assert [link.buckets for link in links] == [frozenset(range(BUCKETS))]


@pytest.mark.parametrize("moved", [True, False])
async def test_links_are_made_anew_when_buckets_have_moved_or_nobody_knows(
    cluster_url: str, monkeypatch: pytest.MonkeyPatch, moved: bool
) -> None:
    looks = 0

    async def look(client: ClusterClient) -> dict[Address, frozenset[int]]:
        nonlocal looks
        looks += 1
        if looks != 2:
            return await served_buckets(client)
        if moved:
            return {Address("127.0.0.1", 1): frozenset(range(BUCKETS))}
        raise ClusterDownError("nobody serves them")

    monkeypatch.setattr("listeners.redis_bus.served_buckets", look)
    bus = RedisBus(cluster_url, Keys(), cluster=True, probe_timeout_s=0.2, backoff=Backoff(0.01, 0.05))
    heard = Heard()
    async with running(bus, heard):
        await eventually(lambda: heard.signals == ["restored", "lost", "restored"] and looks >= 3)


async def test_one_of_the_named_nodes_is_enough(cluster_url: str) -> None:
    async with connected(cluster_url.replace("://", "://127.0.0.1:1,")) as client:
        await check_server(client)


async def test_a_server_that_is_no_cluster_refuses(redis_url: str) -> None:
    async with connected(redis_url.replace("redis://", "redis+cluster://")) as client:
        with pytest.raises(Refused, match="cluster support disabled"):
            await check_server(client)


async def test_a_cluster_that_is_away_is_unavailable() -> None:
    async with connected("redis+cluster://127.0.0.1:1") as client:
        with pytest.raises(Unavailable), translated():
            await client.execute_command("GET", "key")


class TestCheckServer:
    async def test_a_good_one(self, redis_url: str) -> None:
        async with connected(redis_url) as client:
            await check_server(client)

    async def test_none(self) -> None:
        async with connected("redis://127.0.0.1:1") as client:
            with pytest.raises(Unavailable):
                await check_server(client)

    async def test_an_old_one(self, tmp_path: Path) -> None:
        args = ("--rename-command", "SPUBLISH", "")
        async with embedded_valkey(tmp_path, args=args) as server, connected(server.url) as client:
            with pytest.raises(Refused, match="Redis 7"):
                await check_server(client)

    async def test_one_with_another_password(self, tmp_path: Path) -> None:
        async with embedded_valkey(tmp_path, args=("--requirepass", "right")) as server:
            for url in (server.url, server.url.replace("://", "://:wrong@")):
                async with connected(url) as client:
                    with pytest.raises(Refused) as caught:
                        await check_server(client)
                    assert "wrong@" not in str(caught.value)


class TestCancelling:
    @pytest.mark.parametrize("turns", range(12))
    async def test_no_cancellation_is_lost(self, redis_url: str, redis_prefix: str, turns: int) -> None:
        """Wherever a command is when it is cancelled."""
        async with connected(redis_url) as client:
            store = TopicStore(client, Keys(redis_prefix))

            async def for_ever() -> None:
                while True:
                    await store.positions(["location:L1"])

            for _ in range(5):
                task = asyncio.create_task(for_ever())
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task], timeout=2.0)
                assert task.cancelled()


async def test_tickets_and_revocations_on_a_cluster(cluster_url: str) -> None:
    async with connected(cluster_url) as client:
        store = CredentialStore(client, Keys())
        await store.put_ticket("d", b"holder", 30)
        assert [await store.take_ticket("d") for _ in range(2)] == [b"holder", None]
        for n in range(3):
            await store.revoke("jti", f"d{n}", issued_until=0.0, ends_at=2e9, now_ms=1_800_000_000_000)
        records = await store.revocations(None)
        assert [record.digest for record in records] == ["d0", "d1", "d2"]
        assert await store.last_revocation() == records[-1].place
        assert await store.has_revocation(records[0].place)
        assert not await store.has_revocation("1-1")
