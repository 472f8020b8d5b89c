import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

import asyncpg
import redis.asyncio

from load.processes import busy_percent
from load.stack import Servers

__all__ = ["describe_machine"]

BUSY_S: Final = 2.0
_LIBRARIES: Final = ("asyncpg", "hiredis", "orjson", "redis", "uvicorn", "uvloop", "websockets")


def _field(path: str, names: Sequence[str]) -> str | None:
    """The value of the first `name: value` line with one of the names."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in pairs if name.strip() in names), None)


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"


def _cores() -> str:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{usable} of {os.cpu_count()}"


async def describe_machine(servers: Servers) -> dict[str, str]:
    """What the figures depend on. With much else running they are not worth much, so that is said as well."""
    busy = await busy_percent(BUSY_S)
    connection = await asyncpg.connect(servers.database_url)
    client = redis.asyncio.Redis.from_url(servers.redis_url, protocol=2)
    try:
        postgres = await connection.fetchval("SHOW server_version")
        durable = [
            f"{name}={await connection.fetchval(f'SHOW {name}')}" for name in ("fsync", "synchronous_commit")
        ]
        info = await client.info("server")
    finally:
        await connection.close()
        await client.aclose()
    store = (
        f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"
    )
    return {
        "cpu": _field("/proc/cpuinfo", ("model name", "Model", "Hardware")) or platform.processor(),
        "cores": _cores(),
        "memory": _memory(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "busy before": f"{busy:.0f} %",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "libraries": ", ".join(f"{name} {version(name)}" for name in _LIBRARIES),
        "servers": f"PostgreSQL {postgres} ({', '.join(durable)}), {store}",
    }
