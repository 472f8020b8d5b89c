"""The active relay is killed, frozen, cut off or robbed of its lock; another one goes on. Default timers."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from listeners.postgres import LOCK_RELAY, connected
from tests.faults.ledger import Fault, injected, tally
from tests.faults.rig import Replica, Rig, stack
from tests.support.waiting import eventually

# From the moment the active relay is lost until another one (or it itself, over new links) is active.
TAKEOVER_S: Final = 5.0
TIMERS: Final[dict[str, Any]] = {"canary_ms": 1000, "probe_timeout_ms": 2000}
REIGNS: Final = ("relay reigns",)

pytestmark = pytest.mark.timeout(300)


@asynccontextmanager
async def default_stack(replicas: int = 2, seed: int = 0) -> AsyncIterator[Rig]:
    async with stack(replicas, seed=seed, **TIMERS) as rig:
        yield rig


async def taken_over(rig: Rig, fault: Fault, *, by: Replica | None = None) -> None:
    """A reign has begun since the fault did."""

    def began() -> float | None:
        replicas = rig.replicas if by is None else [by]
        return min((at for replica in replicas for at in replica.said(REIGNS, fault.began)), default=None)

    at = await eventually(began, timeout_s=20)
    assert at is not None
    fault.noticed(at)
    took_s = at - fault.began
    tally("relay takeovers")
    assert took_s <= TAKEOVER_S + fault.late_s, f"{fault.kind}: taken over after {took_s:.1f} s"


async def another(rig: Rig, than: Replica) -> Replica:
    return next(replica for replica in rig.replicas if replica is not than)


async def terminate(rig: Rig, purpose: str) -> None:
    """The backend of the active relay; candidates have a lock's session as well, but do not hold the lock."""
    async with rig.shop.connected() as shop:
        ended = await shop.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name = $1 AND ($2 OR pid IN (SELECT pid FROM pg_locks"
            " WHERE locktype = 'advisory' AND granted))",
            f"inventory-gateway {purpose}",
            purpose != "relay lock",
        )
    assert ended == 1, purpose


class TestAProcess:
    async def test_is_killed_frozen_or_told_to_leave(self) -> None:
        async with default_stack(seed=1) as rig:
            with injected("relay's process: SIGKILL") as fault:
                relay = await rig.relay()
                fault.began = time.monotonic()
                await relay.kill()
                await taken_over(rig, fault, by=await another(rig, relay))
                await relay.start()
                await relay.wait_ready()
                fault.ended()
                await rig.recovered(fault)

            relay = await rig.relay()
            with injected("relay's process: SIGSTOP until another reigns") as fault:
                relay.pause()
                await taken_over(rig, fault, by=await another(rig, relay))
                await asyncio.sleep(1)  # it wakes up in the middle of the other's reign
                relay.resume()
                fault.ended()
                await rig.recovered(fault)

            relay = await rig.relay()
            with injected("relay's process: SIGSTOP for less than anybody waits") as fault:
                relay.pause()
                await asyncio.sleep(1.5)
                relay.resume()
                fault.ended()
                await rig.recovered(fault)

            candidate = await another(rig, await rig.relay())
            with injected("candidate's process: SIGSTOP") as fault:
                candidate.pause()
                await asyncio.sleep(4)
                candidate.resume()
                fault.ended()
                await rig.recovered(fault)
                assert not [at for replica in rig.replicas for at in replica.said(REIGNS, fault.began)]

            relay = await rig.relay()
            with injected("relay's process: SIGTERM") as fault:
                leaving = asyncio.create_task(relay.stop())
                await taken_over(rig, fault, by=await another(rig, relay))
                await leaving
                await relay.start()
                await relay.wait_ready()
                fault.ended()
                await rig.recovered(fault)


def freeze(replica: Replica, server: str) -> None:
    getattr(replica, server).freeze()


def freeze_answers(replica: Replica, server: str) -> None:
    getattr(replica, server).freeze(to_server=False)


def cut(replica: Replica, server: str) -> None:
    getattr(replica, server).cut()


def refuse(replica: Replica, server: str) -> None:
    getattr(replica, server).refuse()


def black_hole(replica: Replica, server: str) -> None:
    getattr(replica, server).black_hole()


class TestALink:
    """The active relay is cut off from one of its two servers, or from both."""

    @pytest.mark.parametrize("server", ["postgres", "redis"])
    async def test_is_broken(self, server: str) -> None:
        async with default_stack(seed=2) as rig:
            for break_link in (freeze, freeze_answers, refuse, black_hole, cut):
                relay = await rig.relay()
                kind = f"relay's link to {server}: {break_link.__name__.replace('_', ' ')}"
                with injected(kind) as fault:
                    break_link(relay, server)
                    if (break_link, server) != (cut, "redis"):  # which is made again before anybody asks
                        lasting = break_link in (freeze, freeze_answers, refuse)
                        await taken_over(rig, fault, by=await another(rig, relay) if lasting else None)
                    getattr(relay, server).heal()
                    fault.ended()
                    await rig.recovered(fault)


class TestCandidates:
    async def test_that_can_not_reach_redis_let_others_pass(self) -> None:
        async with default_stack(3, seed=4) as rig:
            relay = await rig.relay()
            unfit, fit = (replica for replica in rig.replicas if replica is not relay)
            with injected("candidate's link to redis: refuse, and the relay is killed") as fault:
                unfit.redis.refuse()
                await eventually(lambda: unfit.said(["relay interrupted"], fault.began), timeout_s=10)
                fault.began = time.monotonic()
                await relay.kill()
                await taken_over(rig, fault, by=fit)
                assert not unfit.said(REIGNS, fault.began)
                unfit.redis.heal()
                await relay.start()
                await relay.wait_ready()
                fault.ended()
                await rig.recovered(fault)


class TestSessions:
    async def test_of_the_active_relay_are_terminated_and_its_lock_is_stolen(self) -> None:
        async with default_stack(seed=5) as rig:
            for purpose in ("relay lock", "relay reader", "relay keeper"):
                await rig.relay()
                with injected(f"{purpose}: pg_terminate_backend") as fault:
                    await terminate(rig, purpose)
                    await taken_over(rig, fault)
                    await rig.recovered(fault)

            relay = await rig.relay()
            with injected("relay lock: held by a stranger") as fault:
                async with connected(rig.postgres.url, purpose="stranger") as stranger:
                    waiting = asyncio.create_task(
                        stranger.execute(f"SELECT pg_advisory_lock({LOCK_RELAY})")  # first in the queue
                    )
                    await eventually(lambda: _is_waiting(rig), timeout_s=5)
                    await terminate(rig, "relay lock")
                    await waiting
                    await eventually(lambda: all(f.stale for f in rig.followers), timeout_s=10)
                    assert not relay.said(REIGNS, fault.began)
                fault.ended()
                await rig.recovered(fault)


async def _is_waiting(rig: Rig) -> bool:
    async with rig.shop.connected() as shop:
        return bool(await shop.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") > 0)


async def test_everything_freezes() -> None:
    """First both links of the active relay, then Redis for everybody."""
    async with default_stack(seed=3) as rig:
        relay = await rig.relay()
        with injected("relay's links to both: freeze") as fault:
            freeze(relay, "postgres")
            freeze(relay, "redis")
            await taken_over(rig, fault, by=await another(rig, relay))
            relay.postgres.heal()
            relay.redis.heal()
            fault.ended()
            await rig.recovered(fault)

        with injected("redis: frozen under writes") as fault:
            rig.valkey.pause()
            await asyncio.sleep(1)  # what was acknowledged before is saved by now
            saved, behind = await _position(rig), await _rows_behind(rig)
            await asyncio.sleep(4)
            assert await _position(rig) == saved, "the position is ahead of what Redis acknowledged"
            assert await _rows_behind(rig) > behind + 20, "there was something to move it"
            rig.valkey.resume()
            fault.ended()
            await rig.recovered(fault)


async def _position(rig: Rig) -> str:
    async with rig.shop.connected() as shop:
        return str(await shop.fetchval("SELECT snapshot FROM gateway.position"))


async def _rows_behind(rig: Rig) -> int:
    async with rig.shop.connected() as shop:
        return int(
            await shop.fetchval(
                "SELECT count(*) FROM gateway.change_log, gateway.position"
                " WHERE NOT pg_visible_in_snapshot(xid, snapshot::pg_snapshot)"
            )
        )
