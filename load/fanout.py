"""One topic with many clients: what a delivered frame and an idle connection cost the server."""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import asyncpg

from load.client import Client, connect
from load.pacing import arrivals, paced
from load.processes import cpu_seconds, resident_bytes
from load.stack import Gateway, Servers
from load.waiting import until

__all__ = ["Audience", "FanoutReport", "FanoutResult", "measure_fanout"]

# Connecting all at once would measure the backlog of the listening socket.
CONNECTING: Final = 50
# These come first, so that what the server loads once is not counted for the others.
WARM_UP_CLIENTS: Final = 50
SETTLE_S: Final = 1.0
SNAPSHOTS_S: Final = 30.0


@dataclass(frozen=True)
class FanoutResult:
    """At one rate of changes. `cpu_us_per_frame`: all CPU time of the serving process by frames received.

    With the clients' process at 100 % of a core, it and not the server limits the frames.
    """

    changes_per_s: float
    frames: int
    frames_per_s: float
    megabytes_per_s: float
    cpu_us_per_frame: float
    cpu_percent: float
    clients_cpu_percent: float


@dataclass(frozen=True)
class FanoutReport:
    clients: int
    bytes_per_connection: float
    results: tuple[FanoutResult, ...]


class Audience:
    """Clients of one URL; counts what they get and looks at nothing."""

    def __init__(self, url: str) -> None:
        self.frames = 0
        self.bytes = 0
        self._url = url
        self._clients: list[Client] = []

    def __len__(self) -> int:
        return len(self._clients)

    async def grow(self, count: int) -> None:
        """Opens that many more. Raises ConnectionRefused, OSError or TimeoutError, as a group."""
        gate = asyncio.Semaphore(CONNECTING)

        async def one() -> None:
            async with gate:
                self._clients.append(await connect(self._url, self._on_text))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(count):
                tasks.create_task(one())

    def lost(self) -> int:
        return sum(client.closed.done() for client in self._clients)

    def leave(self) -> None:
        for client in self._clients:
            client.abort()
        self._clients.clear()

    def _on_text(self, payload: bytes, at: float, /) -> None:
        self.frames += 1
        self.bytes += len(payload)


async def measure_fanout(
    servers: Servers, gateway: Gateway, *, clients: int, rates_per_s: tuple[float, ...], seconds: float
) -> FanoutReport:
    """`clients` subscribers of one product, whose row changes at each of the rates for `seconds`."""
    async with _product(servers) as (connection, product, location):
        audience = Audience(f"{gateway.realtime_url}?topics=product:{product}")
        try:
            bytes_per_connection = await _gather(audience, gateway, clients)
            results = [
                await _measure_rate(connection, product, location, audience, gateway, rate, seconds)
                for rate in rates_per_s
            ]
            if lost := audience.lost():
                raise RuntimeError(f"{lost} of {clients} clients were disconnected")
        finally:
            audience.leave()
    return FanoutReport(clients, bytes_per_connection, tuple(results))


@asynccontextmanager
async def _product(servers: Servers) -> AsyncIterator[tuple[asyncpg.Connection, str, str]]:
    connection = await asyncpg.connect(servers.database_url)
    try:
        query = "SELECT product_id, location_id FROM inventory ORDER BY product_id DESC, location_id LIMIT 1"
        product, location = await connection.fetchrow(query)
        yield connection, product, location
    finally:
        await connection.close()


async def _gather(audience: Audience, gateway: Gateway, clients: int) -> float:
    """Connects them; the server's resident memory by connection, in bytes."""
    await _connect(audience, WARM_UP_CLIENTS)
    before = resident_bytes(gateway.pid)
    await _connect(audience, clients - WARM_UP_CLIENTS)
    return (resident_bytes(gateway.pid) - before) / (clients - WARM_UP_CLIENTS)


async def _connect(audience: Audience, count: int) -> None:
    """Each gets a welcome and a snapshot; then the server is left to settle."""
    frames = audience.frames + 2 * count
    await audience.grow(count)
    await until(lambda: audience.frames >= frames, timeout_s=SNAPSHOTS_S)
    await asyncio.sleep(SETTLE_S)


async def _measure_rate(
    connection: asyncpg.Connection,
    product: str,
    location: str,
    audience: Audience,
    gateway: Gateway,
    rate_per_s: float,
    seconds: float,
) -> FanoutResult:
    began, frames, size = time.monotonic(), audience.frames, audience.bytes
    cpu, own_cpu = cpu_seconds(gateway.pid), cpu_seconds(os.getpid())
    update = "UPDATE inventory SET on_hand = on_hand + 1 WHERE product_id = $1 AND location_id = $2"
    async for _ in paced(arrivals(rate_per_s, seconds, rng=random.Random(1))):
        await connection.execute(update, product, location)
    took_s = time.monotonic() - began
    delivered, sent = audience.frames - frames, audience.bytes - size
    used_s, own_used_s = cpu_seconds(gateway.pid) - cpu, cpu_seconds(os.getpid()) - own_cpu
    if not delivered:
        raise RuntimeError("no frame was delivered")
    # What is still under way is neither counted nor charged; it must not be taken for the next rate's.
    await asyncio.sleep(SETTLE_S)
    return FanoutResult(
        rate_per_s,
        delivered,
        delivered / took_s,
        sent / took_s / 1e6,
        used_s / delivered * 1e6,
        used_s / took_s * 100,
        own_used_s / took_s * 100,
    )
