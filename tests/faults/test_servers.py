"""Postgres, Redis and the replicas: killed, frozen, restarted, emptied, told to drop their connections."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
import redis.asyncio

from tests.faults.ledger import injected
from tests.faults.rig import Rig, stack
from tests.support.waiting import eventually

# Longer than a probe's timeout and than three periods of the canary.
LASTS_S: Final = 1.6


async def redis_command(rig: Rig, *command: Any) -> Any:
    client = redis.asyncio.Redis.from_url(rig.valkey.url, protocol=2)
    try:
        return await client.execute_command(*command)  # type: ignore[no-untyped-call]  # a gap of redis-py
    finally:
        await client.aclose()


async def redis_restarts_empty(rig: Rig) -> None:
    await rig.valkey.kill()
    await rig.valkey.restart()


async def redis_is_away(rig: Rig) -> None:
    await rig.valkey.kill()
    await asyncio.sleep(LASTS_S)
    await rig.valkey.restart()


async def redis_freezes(rig: Rig) -> None:
    rig.valkey.pause()
    await asyncio.sleep(LASTS_S)
    rig.valkey.resume()


async def redis_is_emptied(rig: Rig) -> None:
    await redis_command(rig, "FLUSHALL")


async def redis_drops_its_clients(rig: Rig) -> None:
    for kind in ("normal", "pubsub"):
        await redis_command(rig, "CLIENT", "KILL", "TYPE", kind)


async def redis_drops_subscribers(rig: Rig) -> None:
    await redis_command(rig, "CLIENT", "KILL", "TYPE", "pubsub")


async def redis_makes_clients_wait(rig: Rig) -> None:
    await redis_command(rig, "CLIENT", "PAUSE", round(LASTS_S * 1000), "ALL")
    await asyncio.sleep(LASTS_S)


async def redis_is_full(rig: Rig) -> None:
    await redis_command(rig, "CONFIG", "SET", "maxmemory", "1mb")
    await asyncio.sleep(LASTS_S)
    await redis_command(rig, "CONFIG", "SET", "maxmemory", "0")


async def redis_forgets_scripts(rig: Rig) -> None:
    await redis_command(rig, "SCRIPT", "FLUSH")


async def keys_lost(rig: Rig, pattern: str) -> None:
    """As an eviction does it, against which `doctor` warns: one key at a time, whatever belongs to it."""
    keys = await eventually(lambda: redis_command(rig, "KEYS", pattern))
    await redis_command(rig, "DEL", *random.Random(0).sample(sorted(keys), min(3, len(keys))))


async def redis_loses_topics(rig: Rig) -> None:
    await keys_lost(rig, "gw:*:t:*")


async def redis_loses_logs(rig: Rig) -> None:
    await keys_lost(rig, "gw:*:l:*")


async def redis_loses_the_reign(rig: Rig) -> None:
    await keys_lost(rig, "gw:*:r")


async def redis_loses_the_index(rig: Rig) -> None:
    await keys_lost(rig, "gw:*:i")


async def postgres_crashes(rig: Rig) -> None:
    await rig.postgres.kill()
    await rig.postgres.restart()


async def postgres_crashes_behind_links_that_are_silent(rig: Rig) -> None:
    """Nobody hears that the backends are gone, nor of links that were used a moment ago asks before using."""
    await redis_is_emptied(rig)
    await rig.converged()
    for replica in rig.replicas:
        replica.postgres.black_hole()
    await postgres_crashes(rig)


async def postgres_is_away(rig: Rig) -> None:
    await rig.postgres.kill()
    await asyncio.sleep(LASTS_S)
    await rig.postgres.restart()


async def postgres_restarts(rig: Rig) -> None:
    await rig.postgres.restart()


async def postgres_freezes(rig: Rig) -> None:
    rig.postgres.pause()
    await asyncio.sleep(LASTS_S)
    rig.postgres.resume()


async def postgres_drops_connections(rig: Rig) -> None:
    """Those of the gateway, and those of the shop."""
    async with rig.shop.connected() as shop:
        await shop.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )


async def postgres_cancels_statements(rig: Rig) -> None:
    async with rig.shop.connected() as shop:
        for _ in range(20):
            await shop.execute(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND application_name LIKE 'inventory-gateway%'"
            )
            await asyncio.sleep(0.02)


async def both_servers_crash(rig: Rig) -> None:
    await asyncio.gather(rig.postgres.kill(), rig.valkey.kill())
    await asyncio.sleep(LASTS_S)
    await asyncio.gather(rig.postgres.restart(), rig.valkey.restart())


async def a_replica_is_killed(rig: Rig) -> None:
    replica = rig.replicas[-1]
    await replica.kill()
    await replica.start()
    await replica.wait_ready()


async def the_relay_is_killed(rig: Rig) -> None:
    replica = await rig.relay()
    await replica.kill()
    await replica.start()
    await replica.wait_ready()


async def a_replica_freezes(rig: Rig) -> None:
    replica = rig.replicas[-1]
    replica.pause()
    await asyncio.sleep(LASTS_S)
    replica.resume()


async def every_replica_is_killed(rig: Rig) -> None:
    for replica in rig.replicas:
        await replica.kill()
    await asyncio.sleep(LASTS_S)
    await asyncio.gather(*(replica.start() for replica in rig.replicas))
    await asyncio.gather(*(replica.wait_ready() for replica in rig.replicas))


OF_REDIS: Final = [
    redis_restarts_empty, redis_is_away, redis_freezes, redis_is_emptied, redis_drops_its_clients,
    redis_drops_subscribers, redis_makes_clients_wait, redis_is_full, redis_forgets_scripts,
    redis_loses_topics, redis_loses_logs, redis_loses_the_reign, redis_loses_the_index,
]  # fmt: skip
OF_POSTGRES: Final = [
    postgres_crashes, postgres_crashes_behind_links_that_are_silent, postgres_is_away, postgres_restarts,
    postgres_freezes, postgres_drops_connections, postgres_cancels_statements,
]  # fmt: skip
OF_PROCESSES: Final = [
    a_replica_is_killed, the_relay_is_killed, a_replica_freezes, every_replica_is_killed, both_servers_crash,
]  # fmt: skip


async def inject(rig: Rig, fault_of_server: Callable[[Rig], Awaitable[None]]) -> None:
    with injected(fault_of_server.__name__.replace("_", " ")) as fault:
        await fault_of_server(rig)
        fault.ended()
        await rig.recovered(fault)


@pytest.mark.timeout(300)
async def test_redis() -> None:
    async with stack(seed=3) as rig:
        for fault_of_server in OF_REDIS * 2:
            await inject(rig, fault_of_server)


@pytest.mark.timeout(300)
async def test_postgres() -> None:
    async with stack(seed=4) as rig:
        for fault_of_server in OF_POSTGRES * 3:
            await inject(rig, fault_of_server)


@pytest.mark.timeout(300)
async def test_processes() -> None:
    async with stack(seed=5) as rig:
        for fault_of_server in OF_PROCESSES * 2:
            await inject(rig, fault_of_server)
