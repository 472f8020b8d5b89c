"""What a delivery and an idle connection may cost, in counts: see the budgets of the project."""

import asyncio
import gc
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.fanout import Fanout
from gateway.metrics import GatewayMetrics
from gateway.outgoing import Delivery, Outgoing
from load.sink import Sinks, Visit, open_sinks
from protocol.dialects.inventory_v1 import InventoryV1
from protocol.errors import ProtocolError
from protocol.principal import View
from protocol.subscription import Subscription
from tests.support.gate import Gate, make_gate
from tests.support.replica import stock

TOPIC = "location:L1"
CLIENTS = 200
CHANGES = 20
# Of a connection with one subscription, those that the garbage collector looks at: itself, session,
# subscription, delivery, sending half and their containers, and as many of asyncio's transport (uvloop's has
# three). With websockets' protocol for the connection's whole life there were thirty more.
OBJECTS_A_CONNECTION = 26
DIALECT = InventoryV1()


class Socket:
    """A transport that takes everything and remembers which object it was."""

    def __init__(self) -> None:
        self.written: bytes | None = None
        self.writes = 0

    def write(self, data: bytes) -> None:
        self.written = data
        self.writes += 1

    def get_write_buffer_size(self) -> int:
        return 0

    def refuse(self, subscription: Subscription, error: ProtocolError) -> None:
        raise AssertionError(error)

    holder = "address 127.0.0.1"

    def charge_rows(self, rows: int) -> None:
        raise AssertionError(rows)

    def rows_error(self) -> ProtocolError | None:
        raise AssertionError


class Looked(Outgoing):
    """Counts how often anybody asks any of them for anything."""

    __slots__ = ()
    at = 0

    def __getattribute__(self, name: str) -> Any:
        Looked.at += 1
        return super().__getattribute__(name)


def make_fanout() -> Fanout:
    fanout = Fanout(TOPIC, DIALECT, GatewayMetrics(), flush_s=0)
    fanout.start("e", 1)
    return fanout


def follow(fanout: Fanout, outgoing: Outgoing) -> None:
    delivery = Delivery(Subscription(TOPIC, None, View.EXACT), outgoing)
    fanout.join(delivery)
    fanout.complete(delivery, 1)


def indirectly(clients: int) -> tuple[Fanout, list[Socket]]:
    """Over transports, as with TLS."""
    fanout, sockets = make_fanout(), [Socket() for _ in range(clients)]
    for each in sockets:
        follow(fanout, Outgoing(each, DIALECT, GatewayMetrics(), owner=each))
    return fanout, sockets


@pytest.fixture
async def directly() -> AsyncIterator[Fanout]:
    """Over sockets that take everything."""
    fanout = make_fanout()
    with ExitStack() as stack:
        for _ in range(CLIENTS):
            ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
            ours.setblocking(False)
            each = Socket()
            follow(fanout, Looked(each, DIALECT, GatewayMetrics(), owner=each, fd=ours.fileno()))
            stack.callback(theirs.close)
        yield fanout


async def broadcast(fanout: Fanout, changes: int, *, version: int) -> None:
    for number in range(changes):
        fanout.change([stock("A", version + number)], version + number, 0)
        await asyncio.sleep(0.002)  # the flush's timer: what follows within it would be coalesced


class TestADelivery:
    async def test_the_same_bytes_are_written_once_to_everybody(self) -> None:
        fanout, sockets = indirectly(CLIENTS)
        await broadcast(fanout, CHANGES, version=2)
        assert {each.writes for each in sockets} == {CHANGES}
        assert len({id(each.written) for each in sockets}) == 1

    async def test_nothing_of_it_lives_on(self) -> None:
        fanout, _ = indirectly(CLIENTS)
        assert await left_behind(fanout) < CHANGES

    async def test_nothing_of_a_direct_one_lives_on(self, directly: Fanout) -> None:
        assert await left_behind(directly) < CHANGES

    async def test_it_looks_at_nothing_of_the_connection(self, directly: Fanout) -> None:
        """With many of them that is what a delivery would cost beside its system call."""
        await broadcast(directly, 1, version=2)
        before = Looked.at
        await broadcast(directly, CHANGES, version=3)
        assert Looked.at == before

    async def test_it_is_one_system_call(self, gate: Gate, sinks: Sinks) -> None:
        await subscribe(gate, sinks, CLIENTS)
        before, asked = written(), 0
        for version in range(2, 2 + CHANGES):
            gate.feed.change(TOPIC, stock("A", version))
            while (await sinks.counts()).kinds.get("d", 0) < CLIENTS * (version - 1):
                asked += 1
                await asyncio.sleep(0.02)
            asked += 1
        deliveries = CLIENTS * CHANGES
        # Beside them: the questions to the sinks, what is logged, and the loop that wakes itself up.
        assert deliveries <= written() - before <= 1.05 * deliveries + 2 * asked


class TestAnIdleConnection:
    async def test_it_has_no_task_and_few_objects(self, gate: Gate, sinks: Sinks) -> None:
        await subscribe(gate, sinks, 20)
        gc.collect()
        tasks, objects = len(asyncio.all_tasks()), len(gc.get_objects())
        await subscribe(gate, sinks, CLIENTS)
        gc.collect()
        assert len(asyncio.all_tasks()) == tasks
        assert (len(gc.get_objects()) - objects) / CLIENTS <= OBJECTS_A_CONNECTION

    async def test_a_message_leaves_nothing_behind(self, gate: Gate, sinks: Sinks) -> None:
        await subscribe(gate, sinks, CLIENTS)
        await ask(sinks, 1)
        gc.collect()
        objects = len(gc.get_objects())
        await ask(sinks, 2)
        gc.collect()
        assert (len(gc.get_objects()) - objects) / CLIENTS < 0.1


async def left_behind(fanout: Fanout) -> int:
    """Of 4,000 deliveries: a few objects are those of the loop and of the counters."""
    await broadcast(fanout, CHANGES, version=2)
    grown = []
    for turn in range(1, 4):  # what else this process does meanwhile is not there every time
        gc.collect()
        before = sys.getallocatedblocks()
        await broadcast(fanout, CHANGES, version=2 + turn * CHANGES)
        gc.collect()
        grown.append(sys.getallocatedblocks() - before)
    return min(grown)


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    async with make_gate() as gate:
        yield gate


@pytest.fixture
async def sinks() -> AsyncIterator[Sinks]:
    async with open_sinks() as sinks:
        yield sinks


async def subscribe(gate: Gate, sinks: Sinks, count: int) -> None:
    gate.feed.rows[TOPIC] = [stock("A", 1)]
    before = (await sinks.counts()).kinds.get("s", 0)
    await sinks.connect(gate.port, Visit(f"/realtime?topics={TOPIC}"), count)
    await sinks.wait_frames(before + count, kind="s")


async def ask(sinks: Sinks, times: int) -> None:
    """A ping each, which is answered by a pong: the message of that name."""
    await sinks.say([b'{"type":"ping"}'])
    await sinks.wait_frames(times * CLIENTS, kind="p")


def written() -> int:
    """Calls of write(2) by this process, sockets included (proc(5), syscw)."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("syscw:"))
