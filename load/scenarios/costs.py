"""What a measured stretch has cost the servers, from their own counters."""

import time
from dataclasses import dataclass
from urllib.request import urlopen

import redis.asyncio

from load.processes import cpu_seconds
from load.stack import Gateway, Servers

__all__ = ["Costs", "Meter", "metric"]


@dataclass(frozen=True)
class Costs:
    """Redis' are by whomever: `redis_scripts` are calls of scripts, `redis_reads` how often the server found
    something to read, which is once a pipeline. `loads`: topics read from Postgres."""

    seconds: float
    cpu_s: float
    redis_scripts: int
    redis_reads: int
    loads: int


class Meter:
    """Begin it before, and read() it after."""

    def __init__(self, servers: Servers, gateway: Gateway) -> None:
        self._servers = servers
        self._gateway = gateway

    async def begin(self) -> None:
        self._began = await self._now()

    async def read(self) -> Costs:
        now, began = await self._now(), self._began
        return Costs(
            now.seconds - began.seconds,
            now.cpu_s - began.cpu_s,
            now.redis_scripts - began.redis_scripts,
            now.redis_reads - began.redis_reads,
            now.loads - began.loads,
        )

    async def _now(self) -> Costs:
        client = redis.asyncio.Redis.from_url(self._servers.redis_url, protocol=2)
        try:
            stats = await client.info("commandstats")
            reads = (await client.info("stats"))["total_reads_processed"]
        finally:
            await client.aclose()
        calls = sum(stats.get(f"cmdstat_{word}", {"calls": 0})["calls"] for word in ("evalsha", "eval"))
        loads = int(metric(self._gateway, 'gateway_loads_total{result="done"}'))
        return Costs(time.monotonic(), cpu_seconds(self._gateway.pid), calls, reads, loads)


def metric(gateway: Gateway, name: str) -> float:
    """One sample of the gateway's scrape; `name` with its labels. Raises LookupError."""
    with urlopen(f"{gateway.ops_url}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    for line in lines:
        word, _, value = line.partition(" ")
        if word == name:
            return float(value)
    raise LookupError(f"no metric {name}")
