"""Everything is void at once: each topic is read once for all replicas, and few of them at a time."""

import asyncio
from functools import partial
from typing import Final

import pytest

from gateway.app import LOADS
from listeners.generation import renew_nonce
from tests.faults.ledger import injected, tally
from tests.faults.rig import PUBLIC_TOPICS, TOPICS, Replica, Rig, stack
from tests.support.shop_writers import LOCATIONS, PRODUCTS
from tests.support.waiting import eventually

STORMS: Final = 3
FOLLOWED: Final = [*(f"product:{name}" for name in PRODUCTS), *(f"location:{name}" for name in LOCATIONS)]


async def loads(rig: Rig) -> float:
    return sum(
        [await replica.metric("gateway_loads_total", 'result="done"') or 0 for replica in rig.replicas]
    )


async def watch_loads(replica: Replica, most: list[float]) -> None:
    while True:
        most.append(await replica.metric("gateway_loads_now", 'state="running"') or 0)
        await asyncio.sleep(0.02)


def heard_of_it(rig: Rig, since: float) -> bool:
    return all(replica.said(["new generation"], since) for replica in rig.replicas)


@pytest.mark.timeout(120)
async def test_every_topic_is_read_once_for_all_replicas() -> None:
    async with stack(replicas=2, seed=6) as rig:
        for replica in rig.replicas:
            rig.follow([replica], FOLLOWED)
        await rig.converged()
        most: list[float] = []
        watching = [asyncio.create_task(watch_loads(replica, most)) for replica in rig.replicas]
        for _ in range(STORMS):
            before = await loads(rig)
            with injected("everything void: resync") as fault:
                async with rig.shop.connected() as shop:
                    await renew_nonce(shop)
                await eventually(partial(heard_of_it, rig, fault.began), timeout_s=10)
                await rig.recovered(fault)
            read = await loads(rig) - before
            tally("topics read again after everything was void", read)
            # A load that is overtaken by the next one's voiding is read again.
            assert read == pytest.approx(len({*FOLLOWED, *TOPICS, *PUBLIC_TOPICS}), rel=0.1)
        for task in watching:
            task.cancel()
        assert 0 < max(most) <= LOADS
