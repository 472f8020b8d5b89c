"""Clocks that jump: what must not be lost, and nobody be told to distrust, because of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from listeners.retention import empty_old_leaves
from tests.faults.clocks import LIBRARY, Clock
from tests.faults.ledger import injected
from tests.faults.rewinding import (
    PATIENT,
    ask,
    generation,
    mark,
    marked,
    next_generation,
    session,
    settled_generation,
)
from tests.faults.rig import Rig, stack
from tests.support.servers import server_directory

HOUR_S = 3600
DAY_S = 24 * HOUR_S
MARK = "UPDATE products SET price_minor = $1 WHERE product_id = 'PULSE'"


@pytest.fixture
def readable() -> Iterator[Path]:
    """Also for the account that Postgres runs as."""
    with server_directory() as directory:
        yield directory


def no_one_was_told_to_distrust(rig: Rig, since: float) -> bool:
    return not [at for follower in rig.followers for at in follower.doubts if at >= since]


@pytest.mark.skipif(LIBRARY is None, reason="the package libfaketime is not installed")
async def test_a_jump_of_any_one_clock_loses_nothing_and_makes_nobody_stale(
    readable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres, redis, gateway = (Clock(readable / name) for name in ("postgres", "redis", "gateway"))
    for name, value in gateway.environment.items():
        monkeypatch.setenv(name, value)
    number = 1000
    # With patience enough that nobody is told because this machine is busy.
    patient = PATIENT | {"canary_ms": 1000}
    async with stack(postgres_type=postgres.postgres, valkey_type=redis.valkey, **patient) as rig:
        rig.may_differ = True  # the sweep reckons with Postgres' clock: one that goes back may cost a reload
        for name, clock in (("gateway", gateway), ("redis", redis), ("postgres", postgres)):
            for words, ahead_s in (
                ("an hour ahead", HOUR_S),
                ("two hours back", -HOUR_S),
                ("an hour ahead, to what it should be", 0),
            ):
                with injected(f"clocks: {name}'s jumps {words}") as fault:
                    number += 1
                    async with session(rig.postgres) as slow, session(rig.postgres) as keeping:
                        # What it logs is of an hour that has yet to come, or is long past.
                        async with slow.transaction():
                            await slow.execute(MARK, number + 5000)
                            clock.jump(ahead_s)
                            await empty_old_leaves(keeping)
                        await empty_old_leaves(keeping)
                    await mark(rig, number)
                    for replica in rig.replicas:
                        rig.follow([replica], [f"product:P{number % 40}"])
                    await rig.recovered(fault)
                    # What lives three minutes has ended when Redis' clock goes on by an hour: that is told.
                    gone = clock is redis and ahead_s >= 0
                    assert gone or no_one_was_told_to_distrust(rig, fault.began)


@pytest.mark.skipif(LIBRARY is None, reason="the package libfaketime is not installed")
async def test_a_jump_of_the_database_s_clock_beyond_the_log_s_retention_is_repaired(readable: Path) -> None:
    """Ahead, the triggers take it that nobody has read their log for a day; back, that somebody just has."""
    clock = Clock(readable / "postgres")
    async with stack(postgres_type=clock.postgres, **PATIENT) as rig:
        before = await generation(rig)
        with injected("clocks: postgres's jumps 25 hours ahead") as fault:
            clock.jump(DAY_S + HOUR_S)
            await mark(rig, 1001)
            await next_generation(rig, before)
            await rig.recovered(fault)
        with injected("clocks: postgres's jumps 25 hours back, to what it should be") as fault:
            before = await settled_generation(rig)
            clock.jump(0)
            await mark(rig, 1002)
            await rig.recovered(fault)
            assert await generation(rig) == before


async def test_a_relay_seen_long_ago_or_in_the_future_loses_nothing() -> None:
    """What a jump of the clock leaves in the database; without the jump, where no clock can be made to."""
    async with stack(**PATIENT) as rig:
        before = await generation(rig)
        with injected("clocks: the relay was seen two days ago") as fault:
            await ask(rig.postgres, "UPDATE gateway.control SET relay_seen_at = now() - interval '2 days'")
            await mark(rig, 1001)
            await next_generation(rig, before)
            await rig.recovered(fault)
        with injected("clocks: the relay will be seen in two days") as fault:
            await ask(rig.postgres, "UPDATE gateway.control SET relay_seen_at = now() + interval '2 days'")
            await mark(rig, 1002)
            await rig.recovered(fault)
        before = await generation(rig)
        with injected("clocks: a long transaction began when no relay had been seen for two days") as fault:
            async with session(rig.postgres) as slow, slow.transaction():
                changed = await change_past_the_log(rig, slow)
                await next_generation(rig, before)
                await rig.converged()
                assert marked(rig, 1002)
            fault.ended()
            await rig.recovered(fault)
            assert marked(rig, changed)


async def change_past_the_log(rig: Rig, writer: Any) -> int:
    """Returns the new mark; the triggers have not logged it, for they took it that nobody would read it."""
    logged = -1
    while True:  # unless the relay has just been seen again
        await ask(rig.postgres, "UPDATE gateway.control SET relay_seen_at = now() - interval '2 days'")
        value: int = await writer.fetchval(
            "UPDATE products SET price_minor = price_minor + 1 WHERE product_id = 'PULSE'"
            " RETURNING price_minor"
        )
        before, logged = (
            logged,
            await writer.fetchval("SELECT count(*) FROM gateway.change_log WHERE xid = pg_current_xact_id()"),
        )
        if logged in (before, 0):
            return value
