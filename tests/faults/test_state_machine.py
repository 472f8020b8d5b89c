"""Anything in any order: writes, subscriptions, resumes, disconnects and faults, as hypothesis draws them.

The seed is printed; GATEWAY_FAULTS_SEED replays its run: the same steps, though not to the millisecond.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, TypeVar

import asyncpg
import hypothesis
import uvloop
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from listeners.postgres import TRANSIENT_ERRORS
from protocol.principal import View
from tests.faults import test_servers as servers
from tests.faults.client import Follower
from tests.faults.ledger import Fault, note
from tests.faults.rig import PUBLIC_TOPICS, TOPICS, Replica, Rig, stack
from tests.support.shop_writers import LOCATIONS, PRODUCTS

T = TypeVar("T")

SEED: Final = int(os.environ.get("GATEWAY_FAULTS_SEED", "1"))
RUNS: Final = 4
STEPS: Final = 30
MORE_TOPICS: Final = (*TOPICS, "product:P5", "product:P6", "product:nobody", "location:L3")
# Without a printed example to shrink to: a real server is not put back to where it was.
SETTINGS: Final = settings(
    max_examples=RUNS,
    stateful_step_count=STEPS,
    deadline=None,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)


async def cut_postgres(rig: Rig, replica: Replica) -> None:
    replica.postgres.cut()


async def cut_redis(rig: Rig, replica: Replica) -> None:
    replica.redis.cut()


async def black_hole_postgres(rig: Rig, replica: Replica) -> None:
    replica.postgres.black_hole()


async def black_hole_redis(rig: Rig, replica: Replica) -> None:
    replica.redis.black_hole()


async def freeze(rig: Rig, replica: Replica) -> None:
    replica.pause()
    await asyncio.sleep(0.9)
    replica.resume()


async def kill(rig: Rig, replica: Replica) -> None:
    await replica.kill()
    await replica.start()


Break = Callable[[Rig, Replica], Coroutine[Any, Any, None]]


def of_server(fault: Callable[[Rig], Coroutine[Any, Any, None]]) -> Break:
    return lambda rig, _: fault(rig)


FAULTS: Final[dict[str, Break]] = {
    fault.__name__.replace("_", " "): fault
    for fault in (cut_postgres, cut_redis, black_hole_postgres, black_hole_redis, freeze, kill)
} | {
    fault.__name__.replace("_", " "): of_server(fault)
    for fault in (
        servers.postgres_crashes,
        servers.postgres_drops_connections,
        servers.redis_drops_its_clients,
        servers.redis_is_emptied,
        servers.redis_loses_topics,
        servers.redis_loses_logs,
        servers.redis_loses_the_index,
        servers.redis_restarts_empty,
    )
}
numbers = st.integers(0, 5)


class Loop:
    """An event loop that runs on between the steps, which hypothesis calls from another thread."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rig", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float = 60) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class HeldRig:
    """The rig, held open by a task of its own: a task group ends in the task that it began in."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._done = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def open(self) -> Rig:
        return self._loop.run(self._open())

    async def _open(self) -> Rig:
        ready: asyncio.Future[Rig] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._hold(ready))
        self._task.add_done_callback(partial(_tell, ready))
        return await ready

    async def _hold(self, ready: asyncio.Future[Rig]) -> None:
        async with stack(seed=SEED) as rig:
            ready.set_result(rig)
            await self._done.wait()

    def close(self) -> None:
        """What the rig's end raises, raises this."""
        self._loop.run(self._close())

    async def _close(self) -> None:
        self._done.set()
        if self._task is not None:
            await self._task

    def give_up(self) -> None:
        """After an error: takes everything down."""
        self._loop.run(self._give_up())

    async def _give_up(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])


def _tell(ready: asyncio.Future[Rig], task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None and not ready.done():
        ready.set_exception(error)


class Anything(RuleBasedStateMachine):
    """All runs share the rig; each ends when every copy equals the database."""

    loop: Loop
    rig: Rig
    clients: list[Follower]
    faults: list[Fault]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run(work)

    # --- the shop

    @rule(
        product=st.sampled_from(PRODUCTS[:8]),
        location=st.sampled_from(LOCATIONS),
        what=st.sampled_from(["sell", "count", "delete", "price", "unpublish", "publish", "twice"]),
        amount=st.integers(0, 9),
    )
    def write(self, product: str, location: str, what: str, amount: int) -> None:
        self.run(self._write(product, location, what, amount))

    async def _write(self, product: str, location: str, what: str, amount: int) -> None:
        count = (
            "INSERT INTO inventory (product_id, location_id, vendor_id, on_hand)"
            f" VALUES ('{product}', '{location}', 'V1', {amount})"
            " ON CONFLICT (product_id, location_id) DO UPDATE SET on_hand = excluded.on_hand"
        )
        at = f"WHERE product_id = '{product}'"
        statements = {
            "sell": f"UPDATE inventory SET on_hand = on_hand + {amount} {at} AND location_id = '{location}'",
            "count": count,
            "delete": f"DELETE FROM inventory {at} AND location_id = '{location}'",
            "price": f"UPDATE products SET price_minor = {amount} {at}",
            "unpublish": f"UPDATE products SET status = 'draft' {at}",
            "publish": f"UPDATE products SET status = 'published' {at}",
            "twice": f"DELETE FROM inventory {at} AND location_id = '{location}'; {count}",
        }
        try:
            async with self.rig.shop.connected() as shop:
                await shop.execute(statements[what])
        except (*TRANSIENT_ERRORS, asyncpg.PostgresError):
            return  # a server that was just broken: the shop's problem

    # --- clients

    @rule(client=numbers, topic=st.sampled_from(MORE_TOPICS))
    def subscribe(self, client: int, topic: str) -> None:
        follower = self.clients[client % len(self.clients)]
        if follower.view is View.EXACT or topic in PUBLIC_TOPICS:
            self.run(follower.ask_for(topic))

    @rule(client=numbers, topic=st.sampled_from(MORE_TOPICS))
    def leave(self, client: int, topic: str) -> None:
        self.run(self.clients[client % len(self.clients)].leave(topic))

    @rule(client=numbers)
    def disconnect(self, client: int) -> None:
        self.clients[client % len(self.clients)].drop()

    # --- faults

    @rule(name=st.sampled_from(sorted(FAULTS)), victim=numbers)
    def fault(self, name: str, victim: int) -> None:
        replica = self.rig.replicas[victim % len(self.rig.replicas)]
        self.faults.append(Fault(f"in any order: {name}"))
        self.run(FAULTS[name](self.rig, replica))

    # --- the end of a run

    def teardown(self) -> None:
        for fault in self.faults:
            fault.ended()
        self.run(self.rig.converged())
        for fault in self.faults:
            fault.recovered()
            note(fault)
        self.faults.clear()


def test_anything_in_any_order() -> None:
    print(f"GATEWAY_FAULTS_SEED={SEED} replays this run")
    loop = Loop()
    held = HeldRig(loop)
    try:
        Anything.loop, Anything.rig, Anything.faults = loop, held.open(), []
        Anything.clients = Anything.rig.followers
        run_state_machine_as_test(hypothesis.seed(SEED)(Anything), settings=SETTINGS)
        held.close()
    finally:
        held.give_up()
        loop.close()
