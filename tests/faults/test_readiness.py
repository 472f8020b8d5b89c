"""Who is sent clients, and who is told `stale`: only what concerns them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
import pytest

from tests.faults.ledger import injected
from tests.faults.rig import HEARTBEAT_S, Replica, Rig, stack
from tests.support import processes
from tests.support.waiting import eventually

NOTICED_S = 5.0


async def reasons(replica: Replica) -> list[str]:
    """Why it wants no clients; empty when it does."""
    status, body = await replica.ops("/readyz")
    answer = orjson.loads(body)
    assert (status == 200) == answer["ready"] == (not answer["reasons"])
    found: list[str] = answer["reasons"]
    return found


@asynccontextmanager
async def staying_ready(*replicas: Replica) -> AsyncIterator[None]:
    """They want clients all the time."""

    async def watch(replica: Replica) -> None:
        while True:
            assert await reasons(replica) == []
            await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as tasks:
        watching = [tasks.create_task(watch(replica)) for replica in replicas]
        yield
        for task in watching:
            task.cancel()


async def candidate(rig: Rig) -> Replica:
    relay = await rig.relay()
    return next(replica for replica in rig.replicas if replica is not relay)


def stale(rig: Rig) -> Callable[[], bool]:
    return lambda: all(follower.stale for follower in rig.followers)


@pytest.mark.timeout(120)
async def test_a_replica_that_is_cut_off_alone_says_so_until_it_is_not() -> None:
    async with stack(replicas=2) as rig:
        for kind, server, break_link, chosen in (
            ("redis: refuses one replica", "Redis", "refuse", candidate),
            ("redis: freezes for one replica", "Redis", "freeze", candidate),
            ("redis: freezes for the active relay's replica", "Redis", "freeze", Rig.relay),
            ("postgres: refuses one replica", "Postgres", "refuse", candidate),
            ("postgres: freezes for one replica", "Postgres", "freeze", candidate),
        ):
            victim = await chosen(rig)
            (other,) = (replica for replica in rig.replicas if replica is not victim)
            proxy = victim.redis if server == "Redis" else victim.postgres

            async def says_why(victim: Replica = victim, server: str = server) -> bool:
                return any(reason.startswith(f"cut off from {server}") for reason in await reasons(victim))

            async def is_well(victim: Replica = victim) -> bool:
                return not await reasons(victim)

            async with staying_ready(other):
                with injected(kind) as fault:
                    getattr(proxy, break_link)()
                    await eventually(says_why, timeout_s=NOTICED_S)
                    fault.noticed()
                    metric = await victim.metric("gateway_cut_off")
                    assert metric == 1
                    proxy.heal()
                    fault.ended()
                    await eventually(is_well, timeout_s=10)
                    await rig.recovered(fault)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("server", ["postgres", "valkey"])
async def test_when_everybody_is_cut_off_all_stay_and_say_stale(server: str) -> None:
    async with stack(replicas=2) as rig, staying_ready(*rig.replicas):
        with injected(f"{server}: frozen for everybody") as fault:
            frozen = rig.postgres if server == "postgres" else rig.valkey
            frozen.pause()
            await eventually(stale(rig), timeout_s=NOTICED_S)
            fault.noticed()
            await asyncio.sleep(1.5)  # whoever would leave the rotation has had the time to
            frozen.resume()
            fault.ended()
            await rig.recovered(fault)


@pytest.mark.timeout(120)
async def test_who_holds_a_topic_that_can_not_be_loaded_hears_stale_and_nobody_else() -> None:
    """The topic is void, nobody else follows it, and this replica does not reach the tables."""
    async with stack(replicas=2) as rig:
        victim = await candidate(rig)
        poisoned = rig.follow([victim], ["product:PULSE", "product:P9"])
        well = rig.follow([victim], ["product:PULSE"])
        await rig.converged()
        with injected("postgres: frozen for the loads of one topic") as fault:
            victim.postgres.freeze()
            await resync(rig, "product:P9")
            await eventually(lambda: poisoned.stale and not well.stale, timeout_s=NOTICED_S)
            fault.noticed()
            await asyncio.sleep(3 * HEARTBEAT_S)  # a follower compares each heartbeat with what it has heard
            await eventually(lambda: poisoned.stale and not well.stale, timeout_s=NOTICED_S)
            assert await victim.metric("gateway_doubted_connections") == 1
            victim.postgres.heal()
            fault.ended()
            await eventually(lambda: not poisoned.stale, timeout_s=10)
            await rig.recovered(fault)
        assert await victim.metric("gateway_doubted_connections") == 0


async def resync(rig: Rig, topic: str) -> None:
    code, _, err = await processes.run(
        "resync", topic, database_url=rig.postgres.url, redis_url=rig.valkey.url
    )
    assert code == 0, err
