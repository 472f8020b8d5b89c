"""Servers and gateways of the benchmark's own, started through the command line like anybody's."""

import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from load.children import StackFailed, answers, free_ports, running, started
from load.client import realtime_url

__all__ = ["GATEWAY", "Gateway", "Servers", "StackFailed", "relay_process", "serve_process", "start_servers"]

GATEWAY: Final = (sys.executable, "-m", "gateway")


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

        log = directory / "servers.log"
        async with running((*GATEWAY, *command, *size), log) as process:
            state = await started(process, log, urls)
            yield Servers(state["database_url"], state["redis_url"], directory)


@asynccontextmanager
async def serve_process(servers: Servers, name: str, **settings: object) -> AsyncIterator[Gateway]:
    """`serve` on free ports, ready for clients. `settings` are variables without prefix, in lower case;
    None: the default."""
    listen, ops_listen = (f"127.0.0.1:{port}" for port in free_ports(2))
    gateway_url, ops_url = f"http://{listen}", f"http://{ops_listen}"
    log = servers.directory / f"{name}.log"
    command = (*GATEWAY, "serve", "--listen", listen, "--ops-listen", ops_listen)
    async with running(command, log, _environment(servers, settings)) as process:
        await started(process, log, lambda: answers(f"{ops_url}/readyz"))
        yield Gateway(process.pid, gateway_url, ops_url)


@asynccontextmanager
async def relay_process(servers: Servers, name: str) -> AsyncIterator[int]:
    """`relay`, by its process id. Whether it is active yet is seen by a gateway's readiness."""
    log = servers.directory / f"{name}.log"
    async with running((*GATEWAY, "relay"), log, _environment(servers, {})) as process:
        yield process.pid


def _environment(servers: Servers, settings: Mapping[str, object]) -> dict[str, str]:
    values = {
        "database_url": servers.database_url,
        "redis_url": servers.redis_url,
        "anonymous": "exact",
        "drain_s": 0,
        "log_level": "warning",
        "log_format": "json",
        # A load comes from a few addresses, as nobody else's clients do.
        "max_connections_per_address": 0,
        "handshakes_per_address_per_s": 0,
        **settings,
    }
    return {f"GATEWAY_{name.upper()}": str(value) for name, value in values.items() if value is not None}


def _opened(directory: Path) -> Path:
    directory.chmod(0o755)  # under root, Postgres runs as `nobody`
    return directory
