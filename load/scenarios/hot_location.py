"""Every terminal of one busy location: coalescing bounds the frames of each, and the gateway's CPU time."""

import asyncio
import os
import random
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from load.fanout import Audience
from load.pacing import arrivals, paced
from load.percentiles import Summary, summarize
from load.processes import cpu_seconds
from load.scenarios.copies import differences, subscribers, table_copy
from load.stack import Gateway, Servers
from load.waiting import until

__all__ = ["HotLocationReport", "measure_hot_location"]

WRITERS: Final = 4
WARM_UP_S: Final = 2.0
PATIENCE_S: Final = 10.0
SNAPSHOTS_S: Final = 60.0
_MS: Final = 1000.0


@dataclass(frozen=True)
class HotLocationReport:
    """`frames_per_s` is a client's; the CPU is the gateway's process alone, in percent of a core.

    One witness among the clients keeps a copy, which is compared with the table at the end (`wrong_rows`).
    `lag_ms`: from when the oldest row of a delta was written to its arrival at the witness.
    """

    clients: int
    rate_per_s: float
    changes_per_s: float
    frames_per_s: float
    megabytes_per_s: float
    gateway_cpu_percent: float
    cpu_us_per_frame: float
    clients_cpu_percent: float
    lag_ms: Summary
    wrong_rows: int
    disconnected: int


async def measure_hot_location(
    servers: Servers, gateway: Gateway, *, clients: int, rate_per_s: float, seconds: float
) -> HotLocationReport:
    """Single-row updates of one location at `rate_per_s`, with `clients` subscribers of it."""
    connection: Any = await asyncpg.connect(servers.database_url)
    location = await connection.fetchval("SELECT min(location_id) FROM inventory")
    query = "SELECT product_id FROM inventory WHERE location_id = $1"
    products = [row[0] for row in await connection.fetch(query, location)]
    audience = Audience(f"{gateway.realtime_url}?topics=location:{location}")
    (witness,) = await subscribers(gateway.realtime_url, [f"location:{location}"], 1)
    try:
        await audience.grow(clients - 1)
        await _settled(audience)
        await _write(servers, location, products, rate_per_s, WARM_UP_S)
        witness.lag_s.clear()
        frames, size, deltas = audience.frames, audience.bytes, witness.deltas
        cpu, own_cpu, began = cpu_seconds(gateway.pid), cpu_seconds(os.getpid()), time.monotonic()
        changes = await _write(servers, location, products, rate_per_s, seconds)
        took_s = time.monotonic() - began
        used_s, own_s = cpu_seconds(gateway.pid) - cpu, cpu_seconds(os.getpid()) - own_cpu
        frames, size, deltas = audience.frames - frames, audience.bytes - size, witness.deltas - deltas
        truth = await table_copy(connection, location)
        with suppress(TimeoutError):  # the report says what is missing
            await until(lambda: not differences(witness.copy, truth), timeout_s=PATIENCE_S)
        return HotLocationReport(
            clients=clients,
            rate_per_s=rate_per_s,
            changes_per_s=changes / took_s,
            frames_per_s=deltas / took_s,
            megabytes_per_s=size / took_s / 1e6,
            gateway_cpu_percent=used_s / took_s * 100,
            cpu_us_per_frame=used_s / max(1, frames) * 1e6,
            clients_cpu_percent=own_s / took_s * 100,
            lag_ms=summarize(lag * _MS for lag in witness.lag_s),
            wrong_rows=differences(witness.copy, truth),
            disconnected=audience.lost(),
        )
    finally:
        audience.leave()
        if witness.connection is not None:
            witness.connection.abort()
        await connection.close()


async def _settled(audience: Audience) -> None:
    """Every snapshot is there: nothing has come for a while, and nothing else changes."""
    seen = [-1]

    def quiet() -> bool:
        seen.append(audience.frames)
        return seen[-1] == seen[-2] and seen[-1] >= 2 * len(audience)

    await until(quiet, timeout_s=SNAPSHOTS_S, interval_s=0.5)


async def _write(
    servers: Servers, location: str, products: list[str], rate_per_s: float, seconds: float
) -> int:
    async with asyncio.TaskGroup() as tasks:
        writers = [
            tasks.create_task(
                _writer(servers, location, products[n::WRITERS], rate_per_s / WRITERS, seconds)
            )
            for n in range(WRITERS)
        ]
    return sum(writer.result() for writer in writers)


async def _writer(
    servers: Servers, location: str, products: list[str], rate_per_s: float, seconds: float
) -> int:
    connection: Any = await asyncpg.connect(servers.database_url)
    try:
        update = await connection.prepare(
            "UPDATE inventory SET on_hand = on_hand + 1 WHERE product_id = $1 AND location_id = $2"
        )
        number = 0
        async for _ in paced(arrivals(rate_per_s, seconds)):
            await update.fetch(random.choice(products), location)
            number += 1
    finally:
        await connection.close()
    return number
