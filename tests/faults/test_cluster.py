"""A Valkey cluster under writes: primaries are lost, frozen, replaced and come back, slots move."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from listeners.errors import EpochChanged, Unavailable
from listeners.keys import Keys, bucket_of
from listeners.redis_bus import RedisBus
from listeners.redis_client import connect_redis, served_buckets
from listeners.redis_cluster import Address, ClusterClient
from listeners.topic_store import TopicStore
from tests.faults.ledger import injected
from tests.faults.rig import Rig, stack
from tests.support.cluster import NODE_TIMEOUT_MS, Cluster, Node, bucket_slot, embedded_cluster
from tests.support.link_counter import LinkCounter
from tests.support.store import GENERATION, TERM, item, load
from tests.support.waiting import eventually

# What the followers look at lies in these slots, among others.
BUCKET: Final = bucket_of("product:PULSE")
SLOT: Final = bucket_slot(BUCKET)
OTHER_SLOT: Final = bucket_slot(bucket_of("location:L1"))
ROOT: Final = Path(__file__).parents[2]
# Of the acceptance suite, what takes the servers that it is told of and looks at what comes out of Redis.
ACCEPTANCE: Final = ROOT / "tests" / "acceptance" / "test_convergence.py"
ACCEPTANCE_S: Final = 150.0
# Longer than anything that a test does meanwhile.
SLOW_NODE_TIMEOUT_MS: Final = 30_000
DETECTED_S: Final = 5.0


@asynccontextmanager
async def clustered(*, node_timeout_ms: int = NODE_TIMEOUT_MS) -> AsyncIterator[tuple[Rig, Cluster]]:
    """Two replicas of the gateway on a cluster. Their proxies lead to the first node alone."""
    clusters: list[Any] = []

    def cluster(directory: Path) -> Any:
        clusters.append(Cluster(directory, node_timeout_ms=node_timeout_ms))
        return clusters[0]

    async with stack(valkey_type=cluster) as rig:
        yield rig, clusters[0]
        await expect_no_listeners(await clusters[0].replicas())


async def expect_no_listeners(replicas: Sequence[Node]) -> None:
    """Nobody takes messages at second hand."""
    for node in replicas:

        async def has_none(node: Node = node) -> bool:
            return not await node.run("PUBSUB", "SHARDCHANNELS")

        await eventually(has_none)


async def expect_nothing_read(replicas: Sequence[Node]) -> None:
    """From these, which have always been replicas."""
    for node in replicas:
        commands = await node.run("INFO", "commandstats")
        read = {name: commands.get(f"cmdstat_{name}", {"calls": 0}) for name in ("evalsha", "eval", "hscan")}
        assert all(stats["calls"] == 0 for stats in read.values()), read


async def expect_relinked(rig: Rig, since: float) -> None:
    """Every replica of the gateway has noticed by itself that its links lead to the wrong place."""
    for replica in rig.replicas:
        assert replica.said({"bus link lost"}, since), f"{replica.name} has not noticed"


async def test_a_primary_is_killed_and_comes_back() -> None:
    async with clustered() as (rig, cluster):
        for slot in (SLOT, OTHER_SLOT):
            lost = await cluster.primary_of(slot)
            with injected("cluster: primary killed") as fault:
                await cluster.kill(lost)
                await cluster.wait_failed_over(lost)
                fault.ended()
                await rig.recovered(fault)
            with injected("cluster: killed node returns") as fault:
                await cluster.restart(lost)
                await cluster.wait_settled()
                fault.ended()
                await rig.recovered(fault)


async def test_a_failover_takes_back_what_was_acknowledged() -> None:
    """Every copy is ahead of the new primary then, under seqs that are going to be given out again."""
    async with clustered() as (rig, cluster):
        lost = await cluster.primary_of(SLOT)
        await cluster.stop_replicating(await cluster.a_replica_of(lost))
        written = rig.shop.written
        await eventually(lambda: rig.shop.written > written + 50, timeout_s=10)
        with injected("cluster: failover loses acknowledged writes") as fault:
            await cluster.kill(lost)
            await cluster.wait_failed_over(lost)
            fault.ended()
            rig.follow(rig.replicas)  # one that has nothing but what the store says
            await rig.recovered(fault)


async def test_a_primary_freezes() -> None:
    async with clustered() as (rig, cluster):
        lost = await cluster.primary_of(SLOT)
        with injected("cluster: primary frozen") as fault:
            cluster.pause(lost)
            await cluster.wait_failed_over(lost)
            fault.ended()
            await rig.recovered(fault)
        with injected("cluster: frozen node wakes up as a replica") as fault:
            cluster.resume(lost)
            await cluster.wait_settled()
            fault.ended()
            await rig.recovered(fault)


async def test_a_primary_is_replaced_by_order() -> None:
    async with clustered() as (rig, cluster):
        for _ in range(2):
            old = await cluster.primary_of(SLOT)
            with injected("cluster: failover by order") as fault:
                await cluster.fail_over(await cluster.a_replica_of(old))
                fault.ended()
                await rig.recovered(fault)


async def test_slots_move() -> None:
    async with clustered() as (rig, cluster):
        for slot in (SLOT, OTHER_SLOT):
            target = await cluster.other_primary(await cluster.primary_of(slot))
            with injected("cluster: slot moved key by key") as fault:
                async with cluster.migrating(slot, target):
                    await asyncio.sleep(1.0)  # all keys are there, and subscribers are still here
                fault.ended()
                await rig.recovered(fault)
            await expect_relinked(rig, fault.began)
            target = await cluster.other_primary(target)
            with injected("cluster: slot moved at once") as fault:
                await cluster.migrate_atomically(slot, target)
                fault.ended()
                await rig.recovered(fault)
            await expect_relinked(rig, fault.began)
        await expect_nothing_read(await cluster.replicas())


async def test_a_primary_comes_back_without_its_data_before_anybody_replaced_it() -> None:
    async with clustered(node_timeout_ms=SLOW_NODE_TIMEOUT_MS) as (rig, cluster):
        for slot in (SLOT, OTHER_SLOT):
            lost = await cluster.primary_of(slot)
            with injected("cluster: primary restarts empty") as fault:
                await cluster.kill(lost)
                await cluster.restart(lost)
                fault.ended()
                await rig.recovered(fault)


async def test_primaries_freeze_that_nobody_replaces() -> None:
    async with clustered(node_timeout_ms=SLOW_NODE_TIMEOUT_MS) as (rig, cluster):
        for slots in ((SLOT,), (SLOT, OTHER_SLOT)):
            frozen = {await cluster.primary_of(slot) for slot in slots}
            with injected(f"cluster: {len(frozen)} of 3 primaries frozen for a while") as fault:
                for node in frozen:
                    cluster.pause(node)
                await eventually(lambda: all(follower.stale for follower in rig.followers), timeout_s=10)
                fault.noticed()
                for node in frozen:
                    cluster.resume(node)
                fault.ended()
                await rig.recovered(fault)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """No failover within the time of a test."""
    async with embedded_cluster(tmp_path, node_timeout_ms=SLOW_NODE_TIMEOUT_MS) as cluster:
        yield cluster


@asynccontextmanager
async def listening(cluster: Cluster) -> AsyncIterator[LinkCounter]:
    """A bus with all its timers at their defaults."""
    heard = LinkCounter()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(RedisBus(cluster.url, Keys(), cluster=True).run(heard))
        await eventually(lambda: heard.restorations == 1)
        yield heard
        task.cancel()


@asynccontextmanager
async def stored(cluster: Cluster, **options: Any) -> AsyncIterator[TopicStore]:
    client = connect_redis(cluster.url)
    try:
        yield TopicStore(client, Keys(), cluster=True, **options)
    finally:
        await client.aclose()


async def test_a_frozen_node_is_noticed_with_the_timers_that_are_the_defaults(cluster: Cluster) -> None:
    async with listening(cluster) as heard:
        frozen = await cluster.primary_of(SLOT)
        with injected("cluster: frozen node, default timers") as fault:
            cluster.pause(frozen)
            await eventually(lambda: heard.losses == 1, timeout_s=10)
            fault.noticed()
            assert fault.detection_s is not None
            assert fault.detection_s <= DETECTED_S
            cluster.resume(frozen)
            fault.ended()
            await eventually(lambda: heard.restorations == 2, timeout_s=10)
            fault.recovered()


async def test_links_follow_whoever_becomes_the_primary(cluster: Cluster) -> None:
    """The old one lives on as a replica, and would go on to hand messages on at second hand."""
    async with listening(cluster) as heard:
        old = await cluster.primary_of(SLOT)
        await cluster.fail_over(await cluster.a_replica_of(old))
        await eventually(lambda: heard.restorations == 2, timeout_s=10)
        await expect_no_listeners([old])


async def test_links_that_lead_to_a_replica_are_given_up(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that was away may have told of yesterday's primaries; replicas take subscribers all the same."""
    replica = await cluster.a_replica_of(await cluster.primary_of(SLOT))
    told = iter([Address("127.0.0.1", replica.server.port)])

    async def outdated(client: ClusterClient) -> dict[Address, frozenset[int]]:
        served = await served_buckets(client)
        right = next(node for node, buckets in served.items() if BUCKET in buckets)
        return {next(told, node) if node == right else node: buckets for node, buckets in served.items()}

    monkeypatch.setattr("listeners.redis_client.served_buckets", outdated)
    async with listening(cluster) as heard:
        assert await replica.run("PUBSUB", "SHARDCHANNELS")
        await eventually(lambda: heard.restorations == 2, timeout_s=10)
        await expect_no_listeners([replica])


async def test_only_a_failover_or_a_restart_makes_another_server_of_it(cluster: Cluster) -> None:
    async with stored(cluster) as store:
        first = await store.server_identity()
        source = await cluster.primary_of(SLOT)
        async with cluster.migrating(SLOT, await cluster.other_primary(source)):
            pass
        assert await store.server_identity() == first
        await cluster.fail_over(await cluster.a_replica_of(source))

        async def another() -> bool:
            return await store.server_identity() != first

        # The first answer may be that the one who was asked has become a replica.
        await eventually(lambda: tolerant(another()))


async def tolerant(work: Awaitable[bool]) -> bool:
    try:
        return await work
    except Unavailable:
        return False


async def test_a_topic_that_moves_while_it_is_read_is_read_again(cluster: Cluster) -> None:
    """A cursor means nothing on another node: the rest of the pages would lack items."""
    topic = "product:PULSE"
    items = [item(f"P{n}", 1) for n in range(300)]
    async with stored(cluster, page_items=50) as store:
        await store.begin(GENERATION, TERM)
        epoch = (await load(store, topic, items)).epoch
        whole = {one.key async for page in store.pages(topic, epoch) for one in page}
        assert whole == {one.key for one in items}
        pages = store.pages(topic, epoch)
        await anext(pages)
        source = await cluster.primary_of(SLOT)
        async with cluster.migrating(SLOT, await cluster.other_primary(source)):
            with pytest.raises(EpochChanged):
                await anext(pages)
        again = {one.key async for page in store.pages(topic, epoch) for one in page}
        assert again == whole


@pytest.mark.timeout(180)
async def test_the_acceptance_suite_passes_on_a_cluster(tmp_path: Path) -> None:
    async with embedded_cluster(tmp_path) as cluster:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ACCEPTANCE)),
            env=os.environ | {"GATEWAY_TEST_REDIS_URL": cluster.url},
            cwd=ROOT,
            stdout=PIPE,
            stderr=STDOUT,
        )
        try:
            async with asyncio.timeout(ACCEPTANCE_S):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, output.decode()
