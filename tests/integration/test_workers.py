"""`serve --workers N`, with workers that only pretend: what the parent does about their lives."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.config import Address
from gateway.sockets import bind_socket, bound_address
from gateway.worker_link import WorkerLink, ask_worker
from gateway.workers import Supervisor
from listeners.backoff import Backoff
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration


def command(mode: str) -> Sequence[str]:
    return [sys.executable, "-m", "tests.support.fake_worker", mode]


def quick() -> Backoff:
    return Backoff(0.01, 0.05)


class Running:
    def __init__(self, supervisor: Supervisor, clients: socket.socket, stop: asyncio.Event) -> None:
        self.supervisor = supervisor
        self.clients = clients
        self.stop = stop
        self.port = bound_address(clients).port

    async def is_ready(self) -> bool:
        ready, _ = await self.supervisor.readiness()
        return ready

    async def metrics(self) -> str:
        return (await self.supervisor.metrics()).decode()


@asynccontextmanager
async def supervised(
    mode: str, *, workers: int = 2, grace_s: float = 5, drain_s: float = 0
) -> AsyncIterator[Running]:
    clients = bind_socket(Address("127.0.0.1", 0), setting="test")
    supervisor = Supervisor(
        command(mode), workers=workers, drain_s=drain_s, grace_s=grace_s, make_backoff=quick
    )
    stop = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(supervisor.run(clients, stop))
            try:
                yield Running(supervisor, clients, stop)
            finally:
                stop.set()
    finally:
        clients.close()


class TestServing:
    async def test_all_workers_accept_on_the_one_port(self) -> None:
        async with supervised("ok") as running:
            await eventually(running.is_ready)
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            writer.write(b"hello")
            assert (await reader.read()).startswith(b"worker ")
            writer.close()

    async def test_metrics_of_all_of_them_and_of_the_parent(self) -> None:
        async with supervised("ok") as running:

            async def both() -> bool:
                text = await running.metrics()
                return 'fake{worker="0",mode="ok"} 0' in text and 'fake{worker="1",mode="ok"} 1' in text

            await eventually(both)
            assert "gateway_workers 2.0" in await running.metrics()


class TestReadiness:
    async def test_not_before_a_worker_is(self) -> None:
        async with supervised("unready") as running:

            async def told() -> bool:
                return await running.supervisor.readiness() == (
                    False,
                    ["worker 0: Redis is away", "worker 1: Redis is away"],
                )

            await eventually(told)

    async def test_one_is_enough_and_the_others_say_why_not(self) -> None:
        async with supervised("ok") as running:
            await eventually(running.is_ready)
            running.supervisor._numbers = range(3)  # as if a third had just died

            async def told() -> bool:
                return await running.supervisor.readiness() == (True, ["worker 2: does not answer"])

            await eventually(told)

    async def test_while_the_servers_are_waited_for(self) -> None:
        class Waiting:
            def not_ready(self) -> Sequence[str]:
                return ["GATEWAY_REDIS_URL: away"]

        supervisor = Supervisor(command("ok"), workers=1, drain_s=0, startup=Waiting())
        assert await supervisor.readiness() == (False, ["GATEWAY_REDIS_URL: away"])


class TestDeath:
    async def test_a_worker_that_dies_is_replaced(self) -> None:
        async with supervised("ok", workers=1) as running:
            await eventually(running.is_ready)
            (process,) = running.supervisor._running.values()
            process.kill()

            async def replaced() -> bool:
                return "gateway_worker_restarts_total 1.0" in await running.metrics()

            await eventually(replaced)
            await eventually(running.is_ready)

    async def test_one_that_dies_at_once_is_tried_again_and_again(self) -> None:
        async with supervised("crash", workers=1) as running:

            async def tried() -> bool:
                return "gateway_worker_restarts_total 3.0" in await running.metrics()

            await eventually(tried, timeout_s=10)

    async def test_stopping_does_not_wait_for_the_next_try(self) -> None:
        clients = bind_socket(Address("127.0.0.1", 0), setting="test")
        supervisor = Supervisor(
            command("crash"), workers=1, drain_s=0, make_backoff=lambda: Backoff(600, 600, random=lambda: 0.0)
        )
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group, asyncio.timeout(20):
            running = group.create_task(supervisor.run(clients, stop))
            await eventually(lambda: supervisor._restarts._value.get() == 1)
            stop.set()
            await running
        clients.close()


class TestStopping:
    async def test_workers_are_asked_to_end(self) -> None:
        async with supervised("ok") as running:
            await eventually(running.is_ready)
            processes = list(running.supervisor._running.values())
        assert [process.returncode for process in processes] == [-signal.SIGTERM, -signal.SIGTERM]

    async def test_one_that_does_not_end_is_killed(self) -> None:
        async with asyncio.timeout(20), supervised("stubborn", workers=1, grace_s=0.2) as running:
            await eventually(running.is_ready)
            processes = list(running.supervisor._running.values())
        assert [process.returncode for process in processes] == [-signal.SIGKILL]


class TestTheLink:
    async def test_it_is_one_argument(self) -> None:
        link = WorkerLink(1, 7, 8, "/tmp/a,b/1.sock")
        assert WorkerLink.parse(str(link)) == link

    async def test_a_worker_ends_with_its_parent(self, tmp_path: Path) -> None:
        readable, writable = os.pipe()
        clients = bind_socket(Address("127.0.0.1", 0), setting="test")
        link = WorkerLink(0, clients.fileno(), readable, str(tmp_path / "0.sock"))
        process = await asyncio.create_subprocess_exec(
            *command("ok"), f"--worker={link}", pass_fds=(readable, clients.fileno())
        )
        await eventually(lambda: os.access(link.ops_path, os.F_OK))
        os.close(writable)
        assert await asyncio.wait_for(process.wait(), 5) == 7
        os.close(readable)
        clients.close()

    async def test_nobody_is_there(self, tmp_path: Path) -> None:
        answer = await ask_worker(str(tmp_path / "none.sock"), "/readyz")
        assert not answer.ok
        assert answer.reasons == ["does not answer"]

    async def test_silence_and_nonsense_are_no_answers(self, tmp_path: Path) -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            await reader.read()
            writer.close()

        async def mute(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        for name, handler in (("silent", silent), ("mute", mute)):
            path = str(tmp_path / name)
            async with await asyncio.start_unix_server(handler, path):
                assert (await ask_worker(path, "/readyz", timeout_s=0.1)).status == 0
