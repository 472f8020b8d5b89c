"""PROTOCOL.md 3 and 7, DESIGN.md 3.5 (drain): replicas go and come, and two thousand clients lose nothing."""

import asyncio
import random
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import asyncpg
import orjson
import pytest

from load.frames import client_frame
from protocol.principal import View
from tests.faults.crowd import Crowd, Report, crowded
from tests.faults.hostile import open_websocket
from tests.faults.ledger import injected, tally
from tests.faults.rig import Replica
from tests.faults.shop import Shop
from tests.support.proxy import TcpProxy
from tests.support.shop_writers import LOCATIONS, PRODUCTS
from tests.support.waiting import eventually

TOPICS: Final = [
    *(f"product:{name}" for name in PRODUCTS),
    *(f"location:{name}" for name in LOCATIONS),
    "vendor:V1",
]
DRAIN_S: Final = 8.0
HEARTBEAT_S: Final = 5.0
# What a stop takes beyond its drain: closing handshakes that are not answered (5 s), and the exit.
EXIT_S: Final = 8.0
SETTINGS: Final = {
    "anonymous": "exact",
    "heartbeat_s": HEARTBEAT_S,
    "drain_s": DRAIN_S,
    "log_level": "warning",
    "log_format": "json",
}


class Loads:
    """How often replicas have loaded a topic from Postgres, those of earlier lives included."""

    def __init__(self, fleet: Sequence[Replica]) -> None:
        self._fleet = fleet
        self._seen: dict[int, float] = {}  # by process

    @property
    def total(self) -> float:
        return sum(self._seen.values())

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(0.25)

    async def look(self) -> None:
        for replica in self._fleet:
            if replica.running:
                pid, loads = replica.pid, await replica.metric("gateway_loads_total")
                if loads is not None:
                    self._seen[pid] = loads


@asynccontextmanager
async def fleet_of(
    size: int, database_url: str, redis_url: str, **settings: Any
) -> AsyncIterator[list[Replica]]:
    """Replicas that are ready; each keeps its ports over restarts."""
    async with AsyncExitStack() as put:
        unused = TcpProxy("127.0.0.1", 0)  # nothing stands between these and their servers
        servers = {"database_url": database_url, "redis_url": redis_url}
        fleet = [
            Replica(f"replica {number + 1}", unused, unused, SETTINGS | servers | settings)
            for number in range(size)
        ]
        for replica in fleet:
            put.push_async_callback(replica.kill)
            await replica.start()
        for replica in fleet:
            await replica.wait_ready()
        yield fleet


@pytest.fixture
async def fleet(
    shop: Shop, database_url: str, redis_url: str, redis_prefix: str
) -> AsyncIterator[list[Replica]]:
    settings = {"redis_prefix": redis_prefix}
    async with fleet_of(3, database_url, redis_url, **settings) as fleet:
        yield fleet


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[Shop]:
    """Busy all the time."""
    shop = Shop(lambda: database_url, rate=50)
    await shop.fill()
    writing = asyncio.create_task(shop.run())
    yield shop
    writing.cancel()
    await asyncio.wait([writing])


def interests(size: int, seed: int) -> list[list[str]]:
    """Mostly product pages, some tills, a few dashboards: what each client of a crowd holds."""
    chance = random.Random(seed)
    held = []
    for number in range(size):
        topics = [f"product:{name}" for name in chance.sample(PRODUCTS, chance.randint(1, 3))]
        if number % 40 == 0:
            topics[0] = f"location:{chance.choice(LOCATIONS)}"
        elif number % 100 == 1:
            topics[0] = "vendor:V1"
        held.append(topics)
    return held


async def all_well(crowd: Crowd, shop: Shop, *, timeout_s: float = 30) -> Report:
    """Waits until everybody is back with copies that equal the database, which is quiet meanwhile."""

    async def everybody() -> bool:
        report = await crowd.report()
        return bool(report["content"] == crowd.size)

    await eventually(everybody, timeout_s=timeout_s, interval_s=0.1)
    async with shop.quiet():
        copies = await shop.copies((topic, View.EXACT) for topic in TOPICS)
        expected = {topic: copy for (topic, _), copy in copies.items()}
        last: Report = {}

        async def equal() -> bool:
            last.update(await crowd.report(expected))
            return bool(last["equal"] == crowd.size)

        await eventually(equal, timeout_s=timeout_s, interval_s=0.1)
    tally("copies compared with the database", last["held"])
    return last


def answers(before: Report, after: Report) -> tuple[int, int]:
    """Subscriptions that asked to resume between two reports, and those that were."""
    asked, resumed = (
        after["count"].get(name, 0) - before["count"].get(name, 0) for name in ("resumes asked", "resumed")
    )
    return asked, resumed


def by_second(moments: Sequence[float]) -> list[int]:
    """How many fall into each second."""
    seconds = Counter(int(moment) for moment in moments)
    return [seconds[second] for second in range(max(seconds, default=0) + 1)]


@pytest.mark.timeout(300)
async def test_a_rolling_restart_costs_no_copy_and_no_snapshot(
    fleet: list[Replica], shop: Shop, database_url: str
) -> None:
    loads = Loads(fleet)
    watching = asyncio.create_task(loads.watch())
    async with crowded(
        [replica.url for replica in fleet], interests(2000, seed=3), silence_s=2 * HEARTBEAT_S + 1
    ) as crowd:
        before = await all_well(crowd, shop, timeout_s=60)
        assert loads.total <= 3 * len(TOPICS)
        loaded, work = loads.total, await database_work(database_url)
        for replica in fleet:
            with injected("replica: SIGTERM with a drain") as fault:
                await replica.stop()
                assert replica.process is not None
                assert replica.process.returncode == 0
                took_s = time.monotonic() - fault.began
                await replica.start()
                await replica.wait_ready()
                fault.ended()
                after = await all_well(crowd, shop)
                fault.recovered()
            asked, resumed = answers(before, after)
            told = by_second([ms / 1000 for ms in after["told_ms"][len(before["told_ms"]) :]])
            back = by_second([at - fault.began for at in after["connections"][len(before["connections"]) :]])
            print(
                f"{replica.name}: drained in {took_s:.1f} s, told by second {told}, came back {back},"
                f" {resumed} of {asked} resumed; {changed(before, after)}"
            )
            assert sum(told) > 500
            assert max(told) <= 2 * sum(told) / DRAIN_S
            if took_s <= DRAIN_S + 2:  # else the machine was too busy for anybody to keep a time
                assert max(back) <= 2 * sum(back) / DRAIN_S
            assert resumed > 0.95 * asked
            before = after
        print(f"loads {loaded:g} + {loads.total - loaded:g}")
        print("Postgres:", await database_work(database_url) - work, f"writes {shop.written}")
        assert loads.total - loaded <= len(TOPICS)
        assert before["count"]["unsubscribed"] > 100
        tally("items checked", before["checked"])
    watching.cancel()


def changed(before: Report, after: Report) -> dict[str, int]:
    return dict(Counter(after["count"]) - Counter(before["count"]))


async def database_work(url: str) -> Counter[str]:
    """How often Postgres has been asked for what, so far."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SELECT pg_stat_clear_snapshot()")
        row = await connection.fetchrow(
            "SELECT xact_commit, tup_fetched, (SELECT sum(idx_scan + seq_scan) FROM pg_stat_user_tables"
            " WHERE schemaname = 'public')::bigint AS scans"
            " FROM pg_stat_database WHERE datname = current_database()"
        )
    finally:
        await connection.close()
    return Counter(dict(row))


@pytest.mark.timeout(240)
async def test_the_clients_of_a_killed_replica_come_back_and_resume(fleet: list[Replica], shop: Shop) -> None:
    """Nobody has told them: they spread themselves, by a jitter of half a second at first."""
    async with crowded(
        [replica.url for replica in fleet], interests(1000, seed=5), silence_s=2 * HEARTBEAT_S + 1
    ) as crowd:
        before = await all_well(crowd, shop, timeout_s=60)
        victim = await active_relay(fleet)  # the worst of them
        with injected("replica: SIGKILL under a crowd") as fault:
            await victim.kill()
            killed = time.monotonic()
            await victim.start()
            fault.ended()
            after = await all_well(crowd, shop)
            fault.recovered()
            delays = [at - killed for at in after["connections"][len(before["connections"]) :]]
            fault.noticed(killed + min(delays))
        asked, resumed = answers(before, after)
        print(
            f"killed: {len(delays)} came back after {min(delays):.2f} to {max(delays):.2f} s, all well"
            f" after {fault.recovery_s:.1f} s; {resumed} of {asked} resumed; {changed(before, after)}"
        )
        assert len(delays) > 200
        assert resumed > 0.95 * asked
        tally("items checked", after["checked"])


async def active_relay(fleet: list[Replica]) -> Replica:
    async def find() -> Replica | None:
        for replica in fleet:
            if await replica.metric("gateway_relay_active") == 1:
                return replica
        return None

    found = await eventually(find)
    assert found is not None
    return found


async def test_who_is_stuck_does_not_hold_up_a_drain(
    shop: Shop, database_url: str, redis_url: str, redis_prefix: str
) -> None:
    """One that does not read, one in the middle of its handshake, one that says nothing over HTTP."""
    drain_s = 1.0
    async with fleet_of(1, database_url, redis_url, redis_prefix=redis_prefix, drain_s=drain_s) as [replica]:
        stuck = await asyncio.to_thread(open_websocket, replica.port, receive_buffer=4096)
        half, idle = (socket.create_connection(("127.0.0.1", replica.port)) for _ in range(2))
        half.sendall(b"GET /realtime HTTP/1.1\r\nUpgra")
        idle.sendall(b"GET /client.js HTTP/1.1\r\nHost: x\r\n\r\n")
        request = client_frame(orjson.dumps({"type": "subscribe", "topics": ["vendor:V1"], "view": "exact"}))
        stuck.sendall(request * 100)

        async def congested() -> bool:
            return bool(await replica.metric("gateway_conflated_items_total"))

        await eventually(congested, timeout_s=15)
        with injected("replica: SIGTERM with a stuck client") as fault:
            await replica.stop()
            took_s = time.monotonic() - fault.began
            fault.recovered()
        for sock in (stuck, half, idle):
            sock.close()
        print(f"stuck: drained in {took_s:.1f} s, of which {drain_s:g} s were asked for")
        assert replica.process is not None
        assert replica.process.returncode == 0
        assert took_s <= drain_s + EXIT_S
