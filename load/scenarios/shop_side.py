"""What the triggers cost the shop: the same updates of attached and of bare tables, in turns in one run."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from typing import Any, Final

import asyncpg

from load.processes import cpu_seconds
from load.scenario import Bench, Report, Scenario, Table
from load.stack import Servers, relay_process
from load.waiting import until

__all__ = ["SHOP_SIDE", "ShopSideReport", "ShopSideResult", "measure_shop_side", "ratio"]

ATTACHED: Final = "public.inventory"
BARE: Final = "bench.inventory"
WRITERS: Final = 8
ROWS_A_STATEMENT: Final = 1000
# The relay counts as idle below this share of a core.
IDLE_SHARE: Final = 0.15
IDLE_TIMEOUT_S: Final = 20.0
_LOOK_S: Final = 0.3

# The same columns, checks, indexes and rows; LIKE leaves triggers and foreign keys out, and an update of a
# quantity checks no foreign key. Storage parameters are not copied either and so are repeated.
_MAKE_BARE: Final = f"""
CREATE SCHEMA bench;
CREATE TABLE {BARE} (LIKE {ATTACHED} INCLUDING ALL) WITH (fillfactor = 80);
INSERT INTO {BARE} (product_id, location_id, vendor_id, on_hand, reserved, damaged, safety_stock, incoming,
                    low_stock_at, version, updated_at)
    SELECT product_id, location_id, vendor_id, on_hand, reserved, damaged, safety_stock, incoming,
           low_stock_at, version, updated_at FROM {ATTACHED};
"""

Key = tuple[str, str]


@dataclass(frozen=True)
class ShopSideResult:
    """Rows a second, summed over all turns; the ratio of each pair of neighbouring turns shows the noise."""

    what: str
    bare_rows_per_s: float
    attached_rows_per_s: float
    ratio: float
    ratios: tuple[float, ...]


@dataclass(frozen=True)
class ShopSideReport:
    relay: str
    synchronous_commit: str
    results: tuple[ShopSideResult, ...]


def ratio(bare: Sequence[float], attached: Sequence[float]) -> float:
    """Of the sums of turns of equal length. Raises ZeroDivisionError if nothing was done."""
    return sum(attached) / sum(bare)


async def measure_shop_side(
    servers: Servers, *, synchronous_commit: str, relay_pid: int | None, turns: int, seconds: float
) -> ShopSideReport:
    """`turns` turns of `seconds` each for either table and each kind of update.

    `synchronous_commit` is `on`, Postgres' default, where a commit waits for the disk, or `off`, which shows
    the triggers' CPU time bare.
    With `relay_pid`, the process of the active relay: it may use the machine while attached rows change, as
    in production, and every turn begins when it has caught up.
    """
    async with AsyncExitStack() as stack:
        connections = [
            await _connected(stack, servers.database_url, synchronous_commit) for _ in range(WRITERS)
        ]
        keys = await _prepare(connections[0])
        single = ShopWriter(connections, keys)
        many = ShopWriter(connections[:1], keys)
        results = [
            await _in_turns("single-row updates", single.single_rows, relay_pid, turns, seconds),
            await _in_turns(f"{ROWS_A_STATEMENT}-row updates", many.many_rows, relay_pid, turns, seconds),
        ]
    relay = "running" if relay_pid is not None else "off"
    return ShopSideReport(relay, synchronous_commit, tuple(results))


class ShopWriter:
    """Updates as fast as its connections can, each statement a transaction."""

    def __init__(self, connections: Sequence[Any], keys: Sequence[Key]) -> None:
        self._connections = connections
        self._keys = keys

    async def single_rows(self, table: str, seconds: float) -> float:
        """Rows a second."""
        sql = f"UPDATE {table} SET on_hand = on_hand + 1 WHERE product_id = $1 AND location_id = $2"

        async def once(statement: Any) -> int:
            await statement.fetch(*random.choice(self._keys))
            return 1

        return await self._run(sql, once, seconds)

    async def many_rows(self, table: str, seconds: float) -> float:
        """Rows a second."""
        sql = f"""UPDATE {table} t SET on_hand = on_hand + 1 FROM unnest($1::text[], $2::text[]) AS k(p, l)
                  WHERE t.product_id = k.p AND t.location_id = k.l"""

        async def once(statement: Any) -> int:
            keys = random.sample(self._keys, ROWS_A_STATEMENT)
            await statement.fetch([key[0] for key in keys], [key[1] for key in keys])
            return len(keys)

        return await self._run(sql, once, seconds)

    async def _run(self, sql: str, once: Callable[[Any], Awaitable[int]], seconds: float) -> float:
        statements = [await connection.prepare(sql) for connection in self._connections]
        began = time.monotonic()

        async def work(statement: Any) -> int:
            rows = 0
            while time.monotonic() < began + seconds:
                rows += await once(statement)
            return rows

        done = await asyncio.gather(*(work(statement) for statement in statements))
        return sum(done) / (time.monotonic() - began)


async def _connected(stack: AsyncExitStack, url: str, synchronous_commit: str) -> Any:
    connection = await asyncpg.connect(url, server_settings={"synchronous_commit": synchronous_commit})
    stack.push_async_callback(connection.close)
    return connection


async def _prepare(connection: Any) -> list[Key]:
    await connection.execute("DROP SCHEMA IF EXISTS bench CASCADE")
    await connection.execute(_MAKE_BARE)
    await connection.execute(f"VACUUM ANALYZE {BARE}")
    await connection.execute(f"VACUUM ANALYZE {ATTACHED}")
    await connection.execute("CHECKPOINT")
    return [tuple(row) for row in await connection.fetch(f"SELECT product_id, location_id FROM {BARE}")]


async def _in_turns(
    what: str,
    run: Callable[[str, float], Awaitable[float]],
    relay_pid: int | None,
    turns: int,
    seconds: float,
) -> ShopSideResult:
    rates: dict[str, list[float]] = {BARE: [], ATTACHED: []}
    for table in rates:  # not counted: plans, caches and the first page splits
        await run(table, min(seconds, 0.5))
    for turn in range(turns):
        # The first of a pair is the second of the next: neither gains from what the other leaves behind.
        for table in (BARE, ATTACHED) if turn % 2 == 0 else (ATTACHED, BARE):
            if relay_pid is not None:
                await _wait_idle(relay_pid)
            rates[table].append(await run(table, seconds))
    bare, attached = rates[BARE], rates[ATTACHED]
    return ShopSideResult(
        what,
        sum(bare) / turns,
        sum(attached) / turns,
        ratio(bare, attached),
        tuple(mine / other for other, mine in zip(bare, attached, strict=True)),
    )


async def _wait_idle(pid: int) -> None:
    used = [cpu_seconds(pid)]

    def idle() -> bool:
        used.append(cpu_seconds(pid))
        return used[-1] - used[-2] < IDLE_SHARE * _LOOK_S

    await asyncio.sleep(_LOOK_S)
    await until(idle, timeout_s=IDLE_TIMEOUT_S, interval_s=_LOOK_S)


async def _run(bench: Bench) -> Report:
    """The triggers by themselves, with and without waiting for the disk; then with a relay that reads."""
    servers = bench.servers
    turns: Any = {"turns": 2, "seconds": 1} if bench.quick else {"turns": 5, "seconds": 1.5}
    reports = [
        await measure_shop_side(servers, synchronous_commit=commit, relay_pid=None, **turns)
        for commit in ("on", "off")
    ]
    async with relay_process(servers, "relay") as pid:
        reports.append(await measure_shop_side(servers, synchronous_commit="on", relay_pid=pid, **turns))
    return Report(
        tables=[_table(report) for report in reports],
        figures={"reports": [asdict(report) for report in reports]},
    )


def _table(report: ShopSideReport) -> Table:
    rows = [
        (
            result.what,
            f"{result.bare_rows_per_s:,.0f}",
            f"{result.attached_rows_per_s:,.0f}",
            f"{result.ratio:.2f}",
            " ".join(f"{value:.2f}" for value in result.ratios),
        )
        for result in report.results
    ]
    title = f"The shop's side, relay {report.relay}, synchronous_commit {report.synchronous_commit}"
    return Table(title, ("rows/s", "bare", "attached", "ratio", "of each pair"), rows)


SHOP_SIDE: Final = Scenario("shop_side", "what the triggers cost the shop's writers", _run)
