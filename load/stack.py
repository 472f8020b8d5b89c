"""Servers and gateways of the benchmark's own, started through the command line like anybody's."""

import asyncio
import os
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from urllib.error import URLError
from urllib.request import urlopen

import orjson

from load.client import realtime_url
from load.waiting import until

__all__ = ["Gateway", "Servers", "StackFailed", "relay_process", "serve_process", "start_servers"]

START_TIMEOUT_S: Final = 120.0
STOP_TIMEOUT_S: Final = 30.0

T = TypeVar("T")


class StackFailed(RuntimeError):
    """A process of the stack did not start; the message ends with what it said."""


@dataclass(frozen=True)
class Servers:
    """A Postgres with the sample shop and a Valkey, and where their gateways may write logs."""

    database_url: str
    redis_url: str
    directory: Path


@dataclass(frozen=True)
class Gateway:
    pid: int
    gateway_url: str
    ops_url: str

    @property
    def port(self) -> int:
        return int(self.gateway_url.rpartition(":")[2])

    @property
    def realtime_url(self) -> str:
        return realtime_url(self.gateway_url)


@asynccontextmanager
async def start_servers(*, products: int, locations: int) -> AsyncIterator[Servers]:
    """`dev --servers-only` in a temporary directory. Raises StackFailed."""
    with tempfile.TemporaryDirectory(prefix="igw-bench-", ignore_cleanup_errors=True) as name:
        directory = _opened(Path(name))
        written = directory / "data" / "dev.json"
        command = ("dev", "--servers-only", "--data-dir", str(written.parent))
        size = ("--products", str(products), "--locations", str(locations))

        def urls() -> dict[str, str] | None:
            return orjson.loads(written.read_bytes()) if written.exists() else None

        async with _running((*command, *size), {}, directory / "servers.log") as process:
            state = await _started(process, directory / "servers.log", urls)
            yield Servers(state["database_url"], state["redis_url"], directory)


@asynccontextmanager
async def serve_process(servers: Servers, name: str, **settings: object) -> AsyncIterator[Gateway]:
    """`serve` on free ports, ready for clients. `settings` are variables without prefix, in lower case."""
    listen, ops_listen = (f"127.0.0.1:{port}" for port in _free_ports(2))
    gateway_url, ops_url = f"http://{listen}", f"http://{ops_listen}"
    log = servers.directory / f"{name}.log"
    command = ("serve", "--listen", listen, "--ops-listen", ops_listen)
    async with _running(command, _environment(servers, settings), log) as process:
        await _started(process, log, lambda: _answers(f"{ops_url}/readyz"))
        yield Gateway(process.pid, gateway_url, ops_url)


@asynccontextmanager
async def relay_process(servers: Servers, name: str) -> AsyncIterator[int]:
    """`relay`, by its process id. Whether it is active yet is seen by a gateway's readiness."""
    async with _running(("relay",), _environment(servers, {}), servers.directory / f"{name}.log") as process:
        yield process.pid


def _environment(servers: Servers, settings: Mapping[str, object]) -> dict[str, str]:
    values = {
        "database_url": servers.database_url,
        "redis_url": servers.redis_url,
        "anonymous": "exact",
        "drain_s": 0,
        "log_level": "warning",
        "log_format": "json",
        **settings,
    }
    return {f"GATEWAY_{name.upper()}": str(value) for name, value in values.items()}


def _opened(directory: Path) -> Path:
    directory.chmod(0o755)  # under root, Postgres runs as `nobody`
    return directory


@asynccontextmanager
async def _running(
    arguments: Sequence[str], variables: Mapping[str, str], log: Path
) -> AsyncIterator[Process]:
    """The command in a process that ends with the block."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", *arguments),
            env={**inherited, **variables},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is for us, who stop everything in order
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _started(process: Process, log: Path, condition: Callable[[], T | None]) -> T:
    """The condition's first true value. Raises StackFailed when the process ends or time is up."""

    def check() -> T | None:
        if process.returncode is not None:
            raise StackFailed(_last_words(log))
        return condition()

    try:
        return await until(check, timeout_s=START_TIMEOUT_S, interval_s=0.05)
    except TimeoutError:
        raise StackFailed(_last_words(log)) from None


def _last_words(log: Path) -> str:
    said = log.read_text(errors="replace").strip().splitlines()[-5:]
    return "\n".join((f"{log.stem} did not start:", *said))


def _answers(url: str) -> bool:
    with suppress(URLError, OSError), urlopen(url, timeout=2) as response:
        return bool(response.status == 200)
    return False


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports
