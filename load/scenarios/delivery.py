"""Where the time of a delivery goes with more and more clients: the kernel, or what is looked at before."""

import asyncio
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import orjson

from load.comparison import keep_apart
from load.limit import LimitInC, compile_loop
from load.peers.peer import payload_of
from load.peers.python_side import python_server
from load.processes import raise_file_limit
from load.scenario import Bench, Report, Scenario, Table
from load.sink import open_sinks
from load.ways import IN_C, WAYS

__all__ = ["DELIVERY", "measure_ways"]

# As in `fanout`, so that the sockets are as cold.
DELIVERIES_PER_S: Final = 40_000.0
PAYLOAD_BYTES: Final = 336  # of a delta of one item
DELIVERIES_OF_A_WAY: Final = 120_000
OTHER_FILES: Final = 300
STEPS: Final = (1_000, 5_000, 20_000)
QUICK_STEPS: Final = (300,)
QUICK_DELIVERIES: Final = 6_000


async def measure_ways(clients: int, *, deliveries: int) -> Mapping[str, float]:
    """CPU time of a delivery in us, of each of load.ways, and the median of all times it was used.

    Raises StackFailed, SinkFailed, TimeoutError.
    """
    with tempfile.TemporaryDirectory(prefix="igw-ways-") as name:
        directory, library = Path(name), Path(name) / "limit.so"
        if LimitInC().installed():
            await compile_loop(library)
        arguments = [str(library)] if library.exists() else []
        async with (
            python_server("load.ways", directory, "ways", *arguments) as serving,
            open_sinks() as sinks,
        ):
            keep_apart(serving.pid, sinks.pids)
            await sinks.connect(serving.port, serving.visit, clients)
            payload, sent = payload_of(PAYLOAD_BYTES), 0
            for _ in range(max(2, deliveries // clients) * len(WAYS)):
                due = time.monotonic() + clients / DELIVERIES_PER_S
                await serving.publish(payload)
                sent += clients
                await sinks.wait_frames(sent)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
        return _medians((directory / "ways.log").read_text(), len(WAYS))


def _medians(log: str, warm_up: int) -> Mapping[str, float]:
    """The first of each way finds nothing in its place yet."""
    times: dict[str, list[float]] = defaultdict(list)
    for line in log.splitlines()[warm_up:]:
        way, took_us = orjson.loads(line)
        times[way].append(took_us)
    return {way: statistics.median(took_us) for way, took_us in times.items()}


async def _run(bench: Bench) -> Report:
    most = raise_file_limit() - OTHER_FILES
    steps = QUICK_STEPS if bench.quick else tuple(min(step, most) for step in STEPS)
    deliveries = QUICK_DELIVERIES if bench.quick else DELIVERIES_OF_A_WAY
    results = {clients: await measure_ways(clients, deliveries=deliveries) for clients in steps}
    return Report(tables=[_table(results)], figures={str(clients): results[clients] for clients in steps})


def _table(results: Mapping[int, Mapping[str, float]]) -> Table:
    ways = [way for way in WAYS if way in next(iter(results.values()))]
    first, last = (each(results) for each in (min, max))
    rows: Sequence[Sequence[object]] = [
        (
            way,
            *(f"{result[way]:.2f}" for result in results.values()),
            f"x {results[last][way] / results[first][way]:.2f}",
        )
        for way in ways
    ]
    head = ("us a delivery, by clients", *(f"{clients:,}" for clients in results), "growth")
    note = f"One process, the same sockets in turns. What {IN_C} does not take is Python's, its growth too."
    return Table("One frame to the same sockets, in several ways", head, rows, note)


DELIVERY: Final = Scenario("delivery", "where the time of a delivery goes, 1,000 to 20,000 clients", _run)
