"""A whole installation for the fault tests: servers, replicas behind proxies, a busy shop, its followers."""

import asyncio
import os
import signal
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from random import choice
from typing import Any, Final

import orjson

from listeners.embedded import PostgresServer, ValkeyServer
from listeners.migrations import migrate
from protocol.principal import View
from tests.faults.client import Follower
from tests.faults.ledger import Fault, tally
from tests.faults.shop import PULSE_TOPICS, Shop
from tests.support import processes
from tests.support.ports import free_port
from tests.support.proxy import TcpProxy, proxied
from tests.support.servers import POSTGRES_SETTINGS, server_directory
from tests.support.waiting import eventually

__all__ = ["CANARY_MS", "HEARTBEAT_S", "SETTINGS", "Replica", "Rig", "stack"]

CANARY_MS: Final = 250
HEARTBEAT_S: Final = 0.5
SETTINGS: Final = {
    "anonymous": "exact",
    "canary_ms": CANARY_MS,
    "probe_timeout_ms": 500,
    "heartbeat_s": HEARTBEAT_S,
    "drain_s": 0.5,
    "verify_s": 15,
}
# `stale` is promised within three periods of the canary; this is for a busy machine.
_GRACE_S: Final = 1.0
TOPICS: Final = (*PULSE_TOPICS, "product:P1", "product:P2", "location:L2")
PUBLIC_TOPICS: Final = ("product:P1", "product:P2", "product:P3", "product:PULSE")
# What a process says when it has noticed that a link, a server or a lock is gone.
_SIGNS: Final = frozenset(
    {
        "bus link lost",
        "relay interrupted",
        "relay left without saving its position",
        "positions can not be compared",
        "repair has to wait",
        "new generation",
        "stale",
        "load failed",
    }
)


# What the sweep says of a topic that it has found to be wrong: no fault may lead to that.
_MISMATCH: Final = "topic differs from Postgres, everybody gets it anew"


class Replica:
    """A `serve` process that reaches Postgres and Redis through proxies of its own; it keeps its ports."""

    def __init__(self, name: str, postgres: TcpProxy, redis: TcpProxy, settings: dict[str, Any]) -> None:
        self.name = name
        self.postgres = postgres
        self.redis = redis
        self.port, self.ops_port = free_port(), free_port()
        self.url = f"ws://127.0.0.1:{self.port}/realtime"
        self.lines: list[tuple[float, dict[str, Any]]] = []  # of its log, with the moment they came
        self.process: Process | None = None
        self.settings = settings | {
            "listen": f"127.0.0.1:{self.port}",
            "ops_listen": f"127.0.0.1:{self.ops_port}",
        }
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.process = await processes.start("serve", **self.settings)
        self._reader = asyncio.create_task(self._read_log(self.process))

    async def wait_ready(self) -> None:
        """Raises AssertionError when it ends instead."""

        async def is_ready() -> bool:
            return not self.running or await self.is_ready()

        await eventually(is_ready, timeout_s=processes.START_S)
        assert self.running, f"{self.name} has ended: {[line for _, line in self.lines[-20:]]}"

    async def is_ready(self) -> bool:
        return (await self.ops("/readyz"))[0] == 200

    async def ops(self, path: str) -> tuple[int, str]:
        """Status and body of what the ops port answers; 0 if nothing does within 2 s."""
        try:
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.ops_port)
                try:
                    writer.write(f"GET {path} HTTP/1.1\r\nHost: ops\r\nConnection: close\r\n\r\n".encode())
                    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
                finally:
                    writer.transport.abort()
        except (OSError, TimeoutError):
            return 0, ""
        return (int(head.split(" ", 2)[1]), body) if head else (0, "")

    async def metric(self, name: str, label: str = "") -> float | None:
        """The sum of a metric's values, of those with this label; None without an answer."""
        status, body = await self.ops("/metrics")
        heads = (line.rpartition(" ") for line in body.splitlines())
        values = (
            float(value) for head, _, value in heads if head.partition("{")[0] == name and label in head
        )
        return sum(values) if status == 200 else None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def kill(self) -> None:
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """By SIGTERM: it drains."""
        await self._end(signal.SIGTERM)

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def said(self, events: Iterable[str], since: float) -> list[float]:
        """When it logged one of these after `since`."""
        wanted = frozenset(events)
        return [at for at, line in self.lines if at >= since and line["event"] in wanted]

    async def _end(self, number: signal.Signals) -> None:
        if self.process is None or self._reader is None:
            return
        if self.running:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            async with asyncio.timeout(processes.START_S):
                await self.process.wait()
        await self._reader

    async def _read_log(self, process: Process) -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            try:
                said = orjson.loads(line)
            except orjson.JSONDecodeError:
                said = {"event": f"not logged but printed: {line.decode(errors='replace').rstrip()}"}
            self.lines.append((time.monotonic(), said))


def _is_content(follower: Follower) -> bool:
    assert follower.content, follower
    return True


def _equals(follower: Follower, topic: str, expected: dict[str, dict[str, Any]]) -> bool:
    if topic not in follower.topics:
        return True  # it has left meanwhile
    assert follower.is_complete(topic), f"{topic} is not complete: {follower}"
    differences = follower.differences(topic, expected)
    assert not differences, f"{follower}: {topic}, held and expected: {differences}"
    return True


class Rig:
    """What stack() has put together. Everything in it may be broken."""

    def __init__(self, postgres: PostgresServer, valkey: ValkeyServer, *, seed: int) -> None:
        self.postgres = postgres  # a test may put another server in its place
        self.valkey = valkey
        self.shop = Shop(lambda: self.postgres.url, seed=seed)
        self.replicas: list[Replica] = []
        self.followers: list[Follower] = []
        self.running: list[asyncio.Task[None]] = []
        self.unsaid_s = 0.0  # how long a copy may be old without a word
        self.may_differ = False  # topics from Postgres: somebody writes what no trigger sees
        self._tasks: asyncio.TaskGroup | None = None

    def follow(
        self, replicas: Sequence[Replica], topics: Sequence[str] = TOPICS, view: View = View.EXACT
    ) -> Follower:
        """One more follower, from now on; whenever it connects, it is to any one of these."""
        assert self._tasks is not None
        urls = [replica.url for replica in replicas]
        follower = Follower(lambda: choice(urls), topics, view=view, heartbeat_s=HEARTBEAT_S)
        self.followers.append(follower)
        self.running.append(self._tasks.create_task(follower.run()))
        return follower

    async def relay(self) -> Replica:
        """The replica whose relay is active."""

        async def active() -> Replica | None:
            for replica in self.replicas:
                if replica.running and await replica.metric("gateway_relay_active") == 1:
                    return replica
            return None

        found = await eventually(active, timeout_s=15)
        assert found is not None
        return found

    async def converged(self, timeout_s: float = 30.0) -> None:
        """Until every follower is content and its copies equal the database; nobody writes meanwhile."""
        async with self.shop.quiet():
            held = [(follower, topic) for follower in self.followers for topic in follower.topics]
            wanted = {(topic, follower.view) for follower, topic in held}
            copies = await eventually(lambda: self._copies(wanted), timeout_s=timeout_s)
            for follower, topic in held:
                await eventually(partial(_is_content, follower), timeout_s=timeout_s)
                expected = copies[topic, follower.view]
                await eventually(partial(_equals, follower, topic, expected), timeout_s=timeout_s)
                tally("copies compared with the database")

    async def _copies(self, wanted: Iterable[tuple[str, View]]) -> Any:
        try:
            return await self.shop.copies(wanted)
        except Exception as error:  # the server may be starting
            raise AssertionError(str(error)) from error

    def first_sign(self, since: float) -> float | None:
        """When a process or a client has first noticed anything after `since`."""
        signs = [at for follower in self.followers for at in follower.doubts if at >= since]
        signs += [at for replica in self.replicas for at in replica.said(_SIGNS, since)]
        return min(signs, default=None)

    async def recovered(self, fault: Fault) -> None:
        """Waits until all is well after the fault, and notes when it was noticed."""
        await self.converged()
        fault.recovered()
        sign = self.first_sign(fault.began)
        if sign is not None:
            fault.noticed(sign)

    def check(self) -> None:
        """Nobody has trusted a copy that was too old, and no topic was found to be wrong."""
        for replica in self.replicas:
            wrong = [line for _, line in replica.lines if line["event"] == _MISMATCH]
            assert self.may_differ or not wrong, f"{replica.name}: {wrong}"
        for follower in self.followers:
            lapses = follower.lapses(self.shop.pulses, self.unsaid_s)
            assert not lapses, f"{len(lapses)} lapses, the first: {lapses[0]}"
            tally("items checked", follower.checked)
            follower.checked = 0
        tally("pulses checked", len(self.shop.pulses))

    def print_logs(self) -> None:
        """The ends of them, for whoever reads why a test has failed."""
        now = time.monotonic()
        for replica in self.replicas:
            print(f"--- {replica.name}, seconds ago")
            for at, line in replica.lines[-40:]:
                fields = {name: value for name, value in line.items() if name not in ("timestamp", "level")}
                print(f"{now - at:7.2f} {fields}"[:400])

    def forget(self) -> None:
        """The database has gone back: how old copies were until now can not be judged."""
        self.shop.forget_pulses()
        for follower in self.followers:
            follower.forget()


@asynccontextmanager
async def stack(
    replicas: int = 2,
    *,
    seed: int = 0,
    postgres_settings: dict[str, str] | None = None,
    postgres_type: Callable[..., PostgresServer] = PostgresServer,
    valkey_type: Callable[..., ValkeyServer] = ValkeyServer,
    **settings: Any,
) -> AsyncIterator[Rig]:
    """Postgres, Valkey, replicas, writers, and three followers for each replica; all is well when it begins.

    `settings` are those of gateway.config, over SETTINGS. At the end of a block that raised nothing, the
    followers' trust is judged (Rig.check).
    """
    async with AsyncExitStack() as put:
        directories = [put.enter_context(server_directory()) for _ in range(2)]
        postgres = postgres_type(directories[0], settings=POSTGRES_SETTINGS | (postgres_settings or {}))
        valkey = valkey_type(directories[1])
        for server in (postgres, valkey):
            put.push_async_callback(server.stop)
        await asyncio.gather(postgres.start(), valkey.start())
        await migrate(postgres.url)
        rig = Rig(postgres, valkey, seed=seed)
        rig.unsaid_s = 3 * settings.get("canary_ms", CANARY_MS) / 1000 + _GRACE_S
        await rig.shop.fill()
        for number in range(replicas):
            postgres_proxy, database_url = await put.enter_async_context(proxied(postgres.url))
            redis_proxy, redis_url = await put.enter_async_context(proxied(valkey.url))
            urls = {"database_url": database_url, "redis_url": redis_url}
            replica = Replica(
                f"replica {number + 1}", postgres_proxy, redis_proxy, SETTINGS | urls | settings
            )
            rig.replicas.append(replica)
            put.push_async_callback(replica.kill)
            await replica.start()
        for replica in rig.replicas:
            await replica.wait_ready()
        async with asyncio.TaskGroup() as tasks:
            rig._tasks = tasks
            rig.running.append(tasks.create_task(rig.shop.run()))
            for replica in rig.replicas:
                rig.follow([replica])
                rig.follow([replica], PUBLIC_TOPICS, View.PUBLIC)
            try:
                await rig.converged()
                yield rig
                await rig.converged()
                rig.check()
            except BaseException:
                rig.print_logs()
                raise
            for task in rig.running:
                task.cancel()
