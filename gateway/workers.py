"""`serve --workers N`: a parent that binds the ports, and N processes that serve clients.

All workers accept on the one socket they inherit, so the port survives each of them. The parent serves the
ops port: it is ready when at least one worker is (one that is not ready does not accept), and its /metrics
are the workers' with a label `worker`; each has its own ops app on a Unix socket in a private directory. A
worker that dies is replaced after a backoff. A parent that dies takes its workers along: they hold the
other end of its pipe. SIGHUP is passed on to them: each reads its certificate again.
"""

import asyncio
import os
import signal
import socket
import tempfile
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from gateway.commands import hangup_signal, run_until, stop_signal
from gateway.config import Settings
from gateway.http.ops import make_ops_app_of
from gateway.http.ports import Readiness
from gateway.server import HttpServer
from gateway.sockets import bound_address
from gateway.startup import Startup
from gateway.worker_link import WorkerAnswer, WorkerLink, ask_worker
from gateway.worker_metrics import merge_expositions
from listeners.backoff import Backoff

__all__ = ["Supervisor", "supervise"]

log = structlog.get_logger(__name__)

# A worker that lived so long did not fail at its start: the next one is not held back for it.
STABLE_S: Final = 60.0
# Beyond the drain: what a process needs to end.
GRACE_S: Final = 10.0


class Supervisor:
    """Keeps `workers` processes running until it is told to stop, then until they have drained."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        workers: int,
        drain_s: float,
        startup: Readiness | None = None,
        grace_s: float = GRACE_S,
        make_backoff: Callable[[], Backoff] = lambda: Backoff(0.5, 30.0),
    ) -> None:
        """`command` is a worker's command line, without its link. `startup` answers `/readyz` before `run`.

        A worker that has not ended `grace_s` after its drain is killed.
        """
        self._starting = startup
        self._command = command
        self._numbers = range(workers)
        self._drain_s = drain_s
        self._grace_s = grace_s
        self._make_backoff = make_backoff
        self._running: dict[int, Process] = {}
        self._directory = ""
        self._registry = CollectorRegistry()
        help_text = "Worker processes that run: fewer than GATEWAY_WORKERS means that they die."
        Gauge("gateway_workers", help_text, registry=self._registry).set_function(lambda: len(self._running))
        help_text = "Workers replaced because they died; the log says how."
        self._restarts = Counter("gateway_worker_restarts", help_text, registry=self._registry)

    async def run(self, clients: socket.socket, stop: asyncio.Event) -> None:
        """Returns when `stop` was set and no worker is left."""
        readable, writable = os.pipe()
        try:
            with tempfile.TemporaryDirectory(prefix="inventory-gateway-") as self._directory:
                async with asyncio.TaskGroup() as group:
                    for number in self._numbers:
                        link = WorkerLink(number, clients.fileno(), readable, self._ops_path(number))
                        group.create_task(self._keep(link, stop))
                    self._starting = None
        finally:
            os.close(readable)
            os.close(writable)

    async def readiness(self) -> tuple[bool, list[str]]:
        """Ready when one worker is; the reasons are those of all that are not."""
        if self._starting is not None:
            return False, list(self._starting.not_ready())
        answers = await self._ask("/readyz")
        reasons = [
            f"worker {number}: {', '.join(answer.reasons)}"
            for number, answer in answers.items()
            if not answer.ok
        ]
        return any(answer.ok for answer in answers.values()), reasons

    async def metrics(self) -> bytes:
        """The workers' metrics and those of their parent."""
        answers = await self._ask("/metrics")
        texts = {str(number): answer.body for number, answer in answers.items() if answer.ok}
        return generate_latest(self._registry) + merge_expositions(texts).encode()

    async def pass_on(self, hangup: asyncio.Event) -> None:
        """Whenever it is set, every worker that can be is told by SIGHUP; until cancelled.

        One that has no ops socket yet has not read its certificate, and would be ended by the signal.
        """
        while True:
            await hangup.wait()
            hangup.clear()
            for number, process in self._running.items():
                if process.returncode is None and os.access(self._ops_path(number), os.F_OK):
                    process.send_signal(signal.SIGHUP)

    async def _keep(self, link: WorkerLink, stop: asyncio.Event) -> None:
        backoff = self._make_backoff()
        loop = asyncio.get_running_loop()
        while not stop.is_set():
            began = loop.time()
            code = await self._run_one(link, stop)
            if stop.is_set():
                return
            if loop.time() - began > STABLE_S:
                backoff.reset()
            self._restarts.inc()
            delay_s = backoff.next()
            log.error("worker died", worker=link.number, code=code, next_s=round(delay_s, 2))
            await run_until(stop, asyncio.sleep(delay_s))

    async def _run_one(self, link: WorkerLink, stop: asyncio.Event) -> int | None:
        """One life of a worker; its exit code. SIGTERM is sent when `stop` is set."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            f"--worker={link}",
            pass_fds=(link.clients_fd, link.alive_fd),
            start_new_session=True,  # a Ctrl-C at the terminal is for us alone
        )
        self._running[link.number] = process
        log.info("worker started", worker=link.number, pid=process.pid)
        try:
            if not await run_until(stop, _ended(process)):
                await self._end(process, link.number)
            return process.returncode
        finally:
            if process.returncode is None:
                process.kill()
            del self._running[link.number]
            with suppress(FileNotFoundError):
                os.unlink(link.ops_path)  # noqa: PTH108 - in a directory of ours

    async def _end(self, process: Process, number: int) -> None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self._drain_s + self._grace_s)
        except TimeoutError:
            log.warning("worker did not end and is killed", worker=number)
            process.kill()
            await process.wait()

    async def _ask(self, target: str) -> dict[int, WorkerAnswer]:
        paths = [self._ops_path(number) for number in self._numbers]
        answers = await asyncio.gather(*(ask_worker(path, target) for path in paths))
        return dict(zip(self._numbers, answers, strict=True))

    def _ops_path(self, number: int) -> str:
        return f"{self._directory}/{number}.sock"


async def _keep_date(server: HttpServer) -> None:
    while True:
        server.tick()
        await asyncio.sleep(1)


async def _ended(process: Process) -> None:
    await process.wait()


async def supervise(
    settings: Settings, clients: socket.socket, ops: socket.socket, command: Sequence[str]
) -> int:
    """`serve --workers N` in the parent: waits for the servers, then keeps the workers.

    Returns the exit code. Raises StartRefused: no worker is started then.
    """
    stop = stop_signal()
    startup = Startup(settings)
    supervisor = Supervisor(command, workers=settings.workers, drain_s=settings.drain_s, startup=startup)
    server = HttpServer(make_ops_app_of(supervisor.readiness, supervisor.metrics))
    await server.start(ops)
    try:
        async with asyncio.TaskGroup() as group:
            besides = [group.create_task(_keep_date(server))]
            if settings.tls_certificate is not None:
                besides.append(group.create_task(supervisor.pass_on(hangup_signal())))
            if await run_until(stop, startup.wait()):
                log.info("starting workers", address=str(bound_address(clients)), workers=settings.workers)
                await supervisor.run(clients, stop)
            for task in besides:
                task.cancel()
    finally:
        await server.stop()
        clients.close()
    return 0
