"""On which programs the CPU time of a measured stretch was spent: servers, gateways, the benchmark itself."""

import os
import resource
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import redis.asyncio

from load.processes import TICK_S, busy_seconds, cpu_seconds
from load.scenario import Table
from load.stack import Servers
from load.usage import pids_of_tree

__all__ = ["Spending", "spending_table"]

_WRITERS, _GATEWAYS, _BACKGROUND = (
    f"Postgres: {what}"
    for what in ("the writers' backends", "the gateways' backends", "WAL writer, checkpointer and such")
)
_REST: Final = "all else on the machine"
# Not CPU time that was spent, but what there was of it.
_THERE: Final = "of"
_US: Final = 1e6


class Spending:
    """Counts from `begin` to `read`. The servers have to be on this machine; `gateways`: processes by name.

    Of Postgres' processes those that end meanwhile are known by their parent alone, and count as the
    writers': in a benchmark hardly any others come and go.
    """

    def __init__(self, servers: Servers, connection: Any, gateways: Mapping[str, int]) -> None:
        self._servers = servers
        self._connection = connection
        self._gateways = gateways
        self._postmaster = self._valkey = 0
        self._before: Mapping[str, float] = {}

    async def begin(self) -> None:
        backend = await self._connection.fetchval("SELECT pg_backend_pid()")
        self._postmaster = int(_stat(backend)[1])
        client = redis.asyncio.Redis.from_url(self._servers.redis_url, protocol=2)
        try:
            self._valkey = (await client.info("server"))["process_id"]
        finally:
            await client.aclose()
        self._before = await self._look()

    async def read(self) -> dict[str, float]:
        """Seconds of CPU time by name; under `of` those of all cores, used or not."""
        now = await self._look()
        spent = {name: value - self._before[name] for name, value in now.items()}
        there, busy = spent.pop(_THERE), spent.pop(_REST)
        return {**spent, _REST: max(0.0, busy - sum(spent.values())), _THERE: there}

    async def _look(self) -> dict[str, float]:
        """Since the machine or the process has begun; under _REST all that the machine was busy."""
        gateways, background = await self._purposes()
        alive: dict[int, float] = {}
        for pid in pids_of_tree(self._postmaster):
            with suppress(OSError):  # it has ended meanwhile
                alive[pid] = cpu_seconds(pid)
        backends = sum(alive.get(pid, 0.0) for pid in gateways)
        rest = sum(alive.get(pid, 0.0) for pid in (*background, self._postmaster))
        ended = sum(map(int, _stat(self._postmaster)[13:15])) * TICK_S  # cutime and cstime: proc(5)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            _WRITERS: sum(alive.values()) + ended - backends - rest,
            _GATEWAYS: backends,
            _BACKGROUND: rest,
            "Valkey": cpu_seconds(self._valkey),
            **{name: sum(map(cpu_seconds, pids_of_tree(pid))) for name, pid in self._gateways.items()},
            "the benchmark's writers and subscribers": time.process_time()
            + children.ru_utime
            + children.ru_stime,
            _REST: busy_seconds(),
            _THERE: time.monotonic() * (os.cpu_count() or 1),
        }

    async def _purposes(self) -> tuple[list[int], list[int]]:
        """The backends of the gateways, and the processes that are nobody's backend."""
        rows = await self._connection.fetch(
            "SELECT pid, backend_type = 'client backend' AS client,"
            " application_name LIKE 'inventory-gateway%' AS ours FROM pg_stat_activity"
        )
        return (
            [row["pid"] for row in rows if row["client"] and row["ours"]],
            [row["pid"] for row in rows if not row["client"] and row["pid"] is not None],
        )


def spending_table(title: str, columns: Sequence[tuple[str, Mapping[str, float], int]]) -> Table:
    """`columns`: a head, what Spending has read, and for how many rows."""
    names = [name for name in columns[0][1] if name != _THERE]
    rows: list[Sequence[object]] = [
        [name, *(f"{spent[name] / count * _US:.1f}" for _, spent, count in columns)] for name in names
    ]
    totals = [sum(spent[name] for name in names) for _, spent, _ in columns]
    each = zip(totals, columns, strict=True)
    rows.append(["**together**", *(f"{total / count * _US:.1f}" for total, (_, _, count) in each)])
    each = zip(totals, columns, strict=True)
    rows.append(["of all cores' time", *(f"{total / spent[_THERE]:.0%}" for total, (_, spent, _) in each)])
    return Table(title, ("us of CPU time a row", *(head for head, _, _ in columns)), rows)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the state on, which come after the name in brackets."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
