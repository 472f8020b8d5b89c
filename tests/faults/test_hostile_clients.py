"""DESIGN.md 2.7 and 3.5: however slow or hostile a client is, memory is bounded and nobody else notices."""

import asyncio
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from statistics import quantiles
from typing import Any, Final, NamedTuple

import asyncpg
import orjson
import pytest
from websockets.asyncio.client import connect

from load.frames import TEXT, FrameReader, client_frame
from protocol.items import item_key
from protocol.principal import View
from tests.faults.hostile import Listener, attack, open_websocket
from tests.faults.ledger import injected
from tests.faults.rig import Replica
from tests.faults.shop import PULSE_KEY, Shop
from tests.support.checker import CheckedCopies
from tests.support.memory import forget_peak, peak_bytes, resident_bytes
from tests.support.proxy import TcpProxy, proxied
from tests.support.waiting import eventually
from tests.support.watcher import Watcher

MIB: Final = 1024 * 1024
# How long the good clients are watched alone, and beside the hostile ones, in s.
QUIET_S: Final = 1.5
HOSTILE_S: Final = 3.0
GOOD_TOPICS: Final = ["product:PULSE", "vendor:V1", "location:L1", "product:P1"]
ALL_TOPICS: Final = ["vendor:V1", "location:L1", "location:L2", "location:L3"]


class Good(Watcher):
    """A client that reads, and notes when each pulse of the shop arrived."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.arrived: dict[int, float] = {}

    def receive(self, message: dict[str, Any]) -> None:
        super().receive(message)
        self.messages.clear()
        for item in message.get("items", ()):
            if item_key(item) == PULSE_KEY:
                self.arrived.setdefault(item["on_hand"], time.monotonic())

    def has_heard(self, pulse: int) -> bool:
        return max(self.arrived, default=0) >= pulse

    def is_ready(self) -> bool:
        return all(map(self.is_complete, GOOD_TOPICS))


class Latency(NamedTuple):
    """From a commit to the good clients, in ms."""

    median: float
    p95: float
    worst: float

    def __str__(self) -> str:
        return f"{self.median:.0f}/{self.p95:.0f}/{self.worst:.0f} ms"


class Scene:
    """A gateway, good clients on it, and a busy shop."""

    def __init__(self, replica: Replica, shop: Shop, good: list[Good]) -> None:
        self.replica = replica
        self.shop = shop
        self.good = good

    @property
    def port(self) -> int:
        return self.replica.port

    @property
    def pid(self) -> int:
        return self.replica.pid

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    async def connections(self, number: int) -> bool:
        return await self.replica.metric("gateway_connections") == number

    async def latency(self, since: float) -> Latency:
        """Of the pulses that were committed after `since`; they are waited for."""
        pulses = [pulse for pulse in self.shop.pulses if pulse.committed_at > since]
        waits = []
        for client in self.good:
            await eventually(partial(client.has_heard, pulses[-1].number), timeout_s=15)
            for pulse in pulses:
                arrived = min(at for number, at in client.arrived.items() if number >= pulse.number)
                waits.append(max(0.0, arrived - pulse.committed_at) * 1000)
        cuts = quantiles(waits, n=20)
        return Latency(cuts[9], cuts[18], max(waits))

    async def converged(self) -> None:
        async with self.shop.quiet():
            copies = await self.shop.copies((topic, View.EXACT) for topic in GOOD_TOPICS)
            for client in self.good:
                for (topic, _), expected in copies.items():
                    await eventually(partial(client.equals, topic, expected), timeout_s=15)


MakeScene = Callable[..., AbstractAsyncContextManager[Scene]]


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[Shop]:
    """Busy all the time."""
    shop = Shop(lambda: database_url, rate=50)
    await shop.fill()
    writing = asyncio.create_task(shop.run())
    yield shop
    writing.cancel()
    await asyncio.wait([writing])


@pytest.fixture
async def make_scene(shop: Shop, database_url: str, redis_url: str, redis_prefix: str) -> MakeScene:
    @asynccontextmanager
    async def make(clients: int = 3, **settings: Any) -> AsyncIterator[Scene]:
        servers = {"database_url": database_url, "redis_url": redis_url, "redis_prefix": redis_prefix}
        unused = TcpProxy("127.0.0.1", 0)
        common = {"anonymous": "exact", "drain_s": 0, "log_level": "warning", "log_format": "json"}
        replica = Replica("replica", unused, unused, common | servers | settings)
        async with AsyncExitStack() as put:
            put.push_async_callback(replica.kill)
            await replica.start()
            await replica.wait_ready()
            good = []
            tasks = await put.enter_async_context(asyncio.TaskGroup())
            for _ in range(clients):
                client = await put.enter_async_context(connect(replica.url, proxy=None, max_size=None))
                good.append(Good(client))
                await good[-1].subscribe(GOOD_TOPICS)
                put.callback(tasks.create_task(good[-1].listen()).cancel)
            for each in good:
                await eventually(each.is_ready, timeout_s=15)
            yield Scene(replica, shop, good)

    return make


async def quietly(scene: Scene) -> Latency:
    """How it is with the good clients alone."""
    began = time.monotonic()
    await asyncio.sleep(QUIET_S)  # the measurement itself, not a wait for a condition
    return await scene.latency(began)


def assert_unaffected(during: Latency, quiet: Latency) -> None:
    """Generous, since others work on the machine as well; a client that holds up the loop costs far more."""
    assert during.median <= 4 * quiet.median + 50
    assert during.p95 <= 5 * quiet.p95 + 250


@asynccontextmanager
async def sockets(
    count: int, port: int, topics: Sequence[str] = (), *, receive_buffer: int = 0
) -> AsyncIterator[list[socket.socket]]:
    """Clients that have shaken hands and subscribed, and do nothing more."""

    def open_all() -> list[socket.socket]:
        path = f"/realtime?topics={','.join(topics)}" if topics else "/realtime"
        return [open_websocket(port, receive_buffer=receive_buffer, path=path) for _ in range(count)]

    opened = await asyncio.to_thread(open_all)
    try:
        yield opened
    finally:
        for sock in opened:
            sock.close()


@asynccontextmanager
async def sweeping(scene: Scene) -> AsyncIterator[None]:
    """Every shelf of the shop changes many times a second: whoever does not read is congested soon."""

    async def sweep() -> None:
        async with scene.shop.connected() as shop:
            while True:
                with suppress(asyncpg.DeadlockDetectedError):  # with the shop's writers
                    await shop.execute(
                        "UPDATE inventory SET incoming = (incoming + 1) % 1000 WHERE product_id <> 'PULSE'"
                    )
                await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(sweep())
        yield
        task.cancel()


def unsent_in_kernel(port: int) -> list[int]:
    """Of each connection to this port: bytes that its clients have not acknowledged (proc(5), net/tcp)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [
        int(row[4].partition(":")[0], 16)
        for row in rows
        if row[1].endswith(f":{port:04X}") and row[3] == "01"
    ]


class TestFloods:
    async def test_as_fast_as_it_can(self, make_scene: MakeScene) -> None:
        """Each is paced, told and closed, comes back at once, and goes on."""
        async with make_scene(messages_per_s=100) as scene:
            quiet = await quietly(scene)
            for kind in ("pings", "requests", "fragments", "visits", "headers"):
                forget_peak(scene.pid)
                before = resident_bytes(scene.pid)
                with injected(f"client: floods {kind}") as fault:
                    outcome = await attack(kind, scene.port, HOSTILE_S)
                    fault.ended()
                    during = await scene.latency(fault.began)
                    grown = peak_bytes(scene.pid) - before
                    print(f"{kind}: {quiet} alone, {during} beside; {grown / MIB:+.1f} MiB; {outcome}")
                    await scene.converged()
                    fault.recovered()
                assert outcome["codes"].get("431" if kind == "headers" else "4429", 0) >= 1
                assert grown < 24 * MIB
                assert_unaffected(during, quiet)


class TestSlowReaders:
    async def test_those_that_stop_are_closed_and_cost_what_the_design_says(
        self, make_scene: MakeScene
    ) -> None:
        number = 100
        async with make_scene(slow_client_s=2) as scene:
            quiet = await quietly(scene)
            forget_peak(scene.pid)
            before = resident_bytes(scene.pid)
            with injected("client: stops reading") as fault:
                async with (
                    sockets(number, scene.port, ALL_TOPICS, receive_buffer=4096) as stuck,
                    sweeping(scene),
                ):
                    in_kernel: list[int] = []

                    async def closed() -> bool:
                        in_kernel[:] = max(in_kernel, unsent_in_kernel(scene.port), key=sum)
                        return await scene.replica.metric("gateway_slow_disconnects_total") == number

                    await eventually(closed, timeout_s=15, interval_s=0.2)
                    fault.noticed()
                    listeners = [Listener(sock) for sock in stuck[:20]]  # these read again, in the end
                    for listener in listeners:
                        listener.start()
                    for listener in listeners:
                        await asyncio.to_thread(listener.join, 10)
                fault.ended()
                during = await scene.latency(fault.began)
                await scene.converged()
                fault.recovered()
            grown = peak_bytes(scene.pid) - before
            codes = Counter(listener.close_code for listener in listeners)
            print(
                f"{number} that stop: {quiet} alone, {during} beside; {grown / number / 1024:.0f} KiB each,"
                f" up to {max(in_kernel) / 1024:.0f} KiB each in the kernel; {dict(codes)}"
            )
            assert codes == {1013: 20}
            assert max(in_kernel) <= 64 * 1024
            assert grown <= number * 160 * 1024 + 16 * MIB
            assert_unaffected(during, quiet)

    async def test_one_that_takes_little_is_kept_and_right_in_the_end(self, make_scene: MakeScene) -> None:
        async with make_scene(slow_client_s=4) as scene:
            with injected("client: reads 1 KiB/s") as fault:
                async with sockets(1, scene.port, receive_buffer=2048) as [sock]:
                    slow = SlowReader(sock)
                    slow.subscribe(ALL_TOPICS)
                    async with sweeping(scene):
                        await slow.read_for(9.0)
                    fault.ended()
                    assert await scene.replica.metric("gateway_slow_disconnects_total") == 0
                    conflated = await scene.replica.metric("gateway_conflated_items_total") or 0
                    async with scene.shop.quiet():
                        copies = await scene.shop.copies((topic, View.EXACT) for topic in ALL_TOPICS)
                        while not all(slow.equals(topic, copy) for (topic, _), copy in copies.items()):
                            await slow.read(65536)
                    fault.recovered()
            print(f"1 KiB/s: {conflated:.0f} versions conflated, {slow.checked} items checked")
            assert conflated > 1000


class TestHandshakes:
    async def test_those_never_completed_are_dropped(self, make_scene: MakeScene) -> None:
        async with make_scene() as scene:
            quiet = await quietly(scene)
            files = scene.open_files()
            forget_peak(scene.pid)
            before = resident_bytes(scene.pid)
            with injected("client: never completes the handshake") as fault:
                silent = [socket.create_connection(("127.0.0.1", scene.port)) for _ in range(400)]
                dripping = [socket.create_connection(("127.0.0.1", scene.port)) for _ in range(100)]
                drip = asyncio.create_task(drip_headers(dripping))
                await eventually(lambda: scene.open_files() >= files + 500)
                await eventually(lambda: scene.open_files() <= files + 2, timeout_s=20, interval_s=0.1)
                fault.ended()
                drip.cancel()
                during = await scene.latency(fault.began)
                await scene.converged()
                fault.recovered()
            for sock in (*silent, *dripping):
                sock.close()
            grown = peak_bytes(scene.pid) - before
            print(f"handshakes: {quiet} alone, {during} beside; {grown / 500 / 1024:.0f} KiB each")
            assert grown <= 500 * 32 * 1024
            assert_unaffected(during, quiet)

    async def test_no_credentials_in_time_is_4408(self, make_scene: MakeScene) -> None:
        async with make_scene(clients=0, anonymous="off", auth_timeout_s=1) as scene:
            with injected("client: never authenticates") as fault:
                async with sockets(50, scene.port) as opened:
                    listeners = [Listener(sock) for sock in opened]
                    for listener in listeners:
                        listener.start()
                    for listener in listeners:
                        await asyncio.to_thread(listener.join, 10)
                await eventually(lambda: scene.connections(0), timeout_s=10)
                fault.recovered()
            assert Counter(listener.close_code for listener in listeners) == {4408: 50}


class TestHalfAndGone:
    async def test_half_a_frame_holds_no_more_than_it_sent(self, make_scene: MakeScene) -> None:
        message = client_frame(orjson.dumps({"type": "ping", "id": "late"} | {"x": "x" * 16_000}))
        async with make_scene() as scene:
            quiet = await quietly(scene)
            forget_peak(scene.pid)
            before = resident_bytes(scene.pid)
            with injected("client: sends half a frame") as fault:
                async with sockets(200, scene.port) as opened:
                    for sock in opened:
                        sock.sendall(message[:-1])
                    during = await quietly(scene)
                    grown = peak_bytes(scene.pid) - before
                    opened[0].sendall(message[-1:])
                    assert b'"late"' in await asyncio.to_thread(read_until, opened[0], b'"late"')
                fault.ended()
                await eventually(lambda: scene.connections(len(scene.good)), timeout_s=10)
                await scene.converged()
                fault.recovered()
            print(f"half a frame: {quiet} alone, {during} beside; {grown / 200 / 1024:.0f} KiB each")
            assert grown <= 200 * 64 * 1024 + 8 * MIB
            assert_unaffected(during, quiet)

    async def test_those_that_vanish_are_forgotten(self, make_scene: MakeScene) -> None:
        async with make_scene(slow_client_s=1) as scene:
            with injected("client: resets its connection") as fault:
                async with sockets(200, scene.port, ["product:P1"]) as opened:
                    for sock in opened:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                await eventually(lambda: scene.connections(len(scene.good)), timeout_s=10)
                fault.recovered()
            with injected("client: vanishes in silence") as fault:
                async with (
                    proxied(f"ws://127.0.0.1:{scene.port}") as (proxy, _),
                    sweeping(scene),
                    sockets(20, proxy.port, ALL_TOPICS),
                ):
                    proxy.freeze()
                    await eventually(lambda: scene.connections(len(scene.good)), timeout_s=20)
                    fault.noticed()
                    fault.ended()
                    proxy.thaw()
                await scene.converged()
                fault.recovered()


class SlowReader(CheckedCopies):
    """Checks what it reads, whenever it reads."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._sock = sock
        self._sock.setblocking(False)
        self._frames = FrameReader()

    def subscribe(self, topics: Sequence[str]) -> None:
        self.held.update(dict.fromkeys(topics, View.EXACT))
        self._sock.sendall(client_frame(orjson.dumps({"type": "subscribe", "topics": list(topics)})))

    async def read(self, size: int) -> None:
        async with asyncio.timeout(10):
            data = await asyncio.get_running_loop().sock_recv(self._sock, size)
        assert data, "closed"
        for frame in self._frames.feed(data):
            assert frame.opcode == TEXT, frame
            self.receive(orjson.loads(frame.payload))

    async def read_for(self, seconds: float) -> None:
        """A kilobyte a second."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await self.read(256)
            await asyncio.sleep(0.25)  # its speed


def read_until(sock: socket.socket, what: bytes) -> bytes:
    data = b""
    while what not in data and (more := sock.recv(65536)):
        data += more
    return data


async def drip_headers(connections: Sequence[socket.socket]) -> None:
    """A header every half second, and never the end."""
    alive = list(connections)
    for sock in alive:
        sock.sendall(b"GET /realtime HTTP/1.1\r\n")
    for number in count():
        await asyncio.sleep(0.5)
        for sock in list(alive):
            try:
                sock.sendall(b"X-%d: x\r\n" % number)
            except OSError:
                alive.remove(sock)
