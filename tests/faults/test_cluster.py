"""A Valkey cluster under writes: primaries are lost, frozen, replaced and come back, slots move."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from listeners.keys import bucket_of
from tests.faults.ledger import injected
from tests.faults.rig import Rig, stack
from tests.support.cluster import Cluster, bucket_slot, embedded_cluster

# What the followers look at lies in these slots, among others.
SLOT = bucket_slot(bucket_of("product:PULSE"))
OTHER_SLOT = bucket_slot(bucket_of("location:L1"))
ROOT: Final = Path(__file__).parents[2]
# Of the acceptance suite and around it, what takes the servers that it is told of.
ACCEPTANCE: Final = ("acceptance/test_convergence.py", "acceptance/test_cli.py", "integration/test_serve.py")
ACCEPTANCE_S: Final = 150.0


@asynccontextmanager
async def clustered(**settings: Any) -> AsyncIterator[tuple[Rig, Cluster]]:
    """Two replicas of the gateway on a cluster. Their proxies lead to the first node alone."""
    clusters: list[Any] = []

    def cluster(directory: Any) -> Any:
        clusters.append(Cluster(directory))
        return clusters[0]

    async with stack(valkey_type=cluster, **settings) as rig:
        yield rig, clusters[0]


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
                if not await cluster.migrate_atomically(slot, target):
                    return
                fault.ended()
                await rig.recovered(fault)
            await expect_relinked(rig, fault.began)


async def test_the_acceptance_suite_passes_on_a_cluster(tmp_path: Path) -> None:
    async with embedded_cluster(tmp_path) as cluster:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *(str(ROOT / "tests" / name) for name in ACCEPTANCE),
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
