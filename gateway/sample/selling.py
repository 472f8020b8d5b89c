import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from gateway.sample.pacing import Pacer
from gateway.sample.planning import Kind, Line, Plan, Planner, Shelf

__all__ = ["Tally", "read_shelves", "sell"]

# So many products at most, the first by id: a list of everything would cost a gigabyte in a large shop, and
# by Zipf's law the rest would hardly sell.
MAX_PRODUCTS: Final = 100_000
# Below this a wait ends by itself before anybody notices that it could not be interrupted.
_SHORT_WAIT_S: Final = 0.05
# Below so many available pieces a place is due for a delivery, where no low_stock_at says otherwise.
_LOW: Final = 5

# The writers' own races and a shop's usual refusals; the next customer is not turned away for them.
_CONFLICTS: Final = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.NumericValueOutOfRangeError,
)

# So many times in a row another try follows at once when nothing could be changed. After that a turn is lost,
# or a shop in which nothing is left would be asked as fast as it answers.
_MISSES: Final = 3

_SHELVES: Final = """
    SELECT product_id, array_agg(location_id ORDER BY location_id)
    FROM public.inventory
    WHERE product_id IN (SELECT product_id FROM public.products ORDER BY product_id LIMIT $1)
    GROUP BY product_id ORDER BY product_id
"""
_STOCK: Final = (
    "UPDATE public.inventory SET {} WHERE product_id = $1 AND location_id = $2 AND {} RETURNING {}"
)
# Each has its condition with it, so that a race between two writers changes no row instead of failing.
_SQL: Final = {
    Kind.SALE: _STOCK.format(
        "on_hand = on_hand - $3", "available >= $3", f"available < coalesce(low_stock_at, {_LOW})"
    ),
    Kind.RESERVE: _STOCK.format("reserved = reserved + $3", "available >= $3", "false"),
    Kind.COLLECT: _STOCK.format(
        "on_hand = on_hand - $3, reserved = reserved - $3", "reserved >= $3", "false"
    ),
    Kind.CANCEL: _STOCK.format("reserved = reserved - $3", "reserved >= $3", "false"),
    Kind.RESTOCK: _STOCK.format(
        "on_hand = on_hand + greatest(incoming, $3), incoming = 0", "on_hand < 1000", "false"
    ),
    Kind.ANNOUNCE: _STOCK.format("incoming = incoming + $3", "incoming < 100", "false"),
    Kind.TRANSFER: _STOCK.format(
        "on_hand = on_hand + $3", "(available + $3 >= 0 OR $3 > 0) AND on_hand < 1000000", "false"
    ),
    # Of what is broken one piece is thrown away in the end, or the shelf would hold nothing else.
    Kind.DAMAGE: _STOCK.format(
        "on_hand = on_hand - least(damaged, 1), damaged = damaged + CASE damaged WHEN 0 THEN 1 ELSE -1 END",
        "(damaged > 0 OR available > 0) AND $3 > 0",
        "false",
    ),
}
_PRICE: Final = """
    UPDATE public.products SET price_minor = greatest(100, round(price_minor * $2::numeric))::bigint
    WHERE product_id = $1 AND price_minor <> greatest(100, round(price_minor * $2::numeric))
    AND round(price_minor * $2::numeric) < 100000000 RETURNING false
"""
_STATUS: Final = (
    "UPDATE public.products SET status = $2 WHERE product_id = $1 AND status <> $2 RETURNING false"
)


@dataclass
class Tally:
    """What has happened, by kind, counted in changed rows; `changes` is what the relay has to carry."""

    clock: Callable[[], float] = time.monotonic
    rows: Counter[Kind] = field(default_factory=Counter)
    transactions: int = 0
    conflicts: int = 0
    reconnects: int = 0

    def __post_init__(self) -> None:
        self._began = self.clock()

    @property
    def changes(self) -> int:
        return sum(count for kind, count in self.rows.items() if kind is not Kind.ABANDON)

    def summary(self) -> str:
        """One line."""
        elapsed_s = max(1e-9, self.clock() - self._began)
        kinds = ", ".join(f"{self.rows[kind]:,} {kind.value}" for kind in Kind if self.rows[kind])
        line = (
            f"{self.changes:,} changes in {elapsed_s:.1f} s ({self.changes / elapsed_s:,.1f}/s), "
            f"{self.transactions:,} transactions: {kinds or 'nothing'}"
        )
        more = {"conflicts": self.conflicts, "reconnects": self.reconnects}
        return line + "".join(f"; {count} {word}" for word, count in more.items() if count)


class _Undone(Exception):
    """Ends a transaction that is to be rolled back."""


async def read_shelves(connection: Any) -> list[Shelf]:
    """What there is to sell, the most popular first; empty in an empty shop."""
    rows = await connection.fetch(_SHELVES, MAX_PRODUCTS)
    return [Shelf(product_id, location_ids) for product_id, location_ids in rows]


async def sell(connection: Any, planner: Planner, pacer: Pacer, tally: Tally, stop: asyncio.Event) -> None:
    """One writer: does what is planned, when its turn comes, until `stop` is set.

    Raises what the connection raises when it is lost.
    """
    misses = 0
    while True:
        plan = planner.next()
        if await _stopped_within(stop, pacer.take(plan.changes)):
            return
        changed = 0
        try:
            changed = await _carry_out(connection, planner, plan, tally)
        except _CONFLICTS:
            tally.conflicts += 1
        misses = 0 if changed else misses + 1
        if misses <= _MISSES:
            pacer.give_back(plan.changes - changed)


async def _stopped_within(stop: asyncio.Event, seconds: float) -> bool:
    if seconds <= _SHORT_WAIT_S:
        await asyncio.sleep(seconds)
        return stop.is_set()
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return False
    return True


async def _carry_out(connection: Any, planner: Planner, plan: Plan, tally: Tally) -> int:
    """Returns how many rows it has changed."""
    changed = await _transact(connection, planner, plan)
    tally.transactions += 1
    tally.rows[plan.kind] += len(plan.lines) if plan.kind is Kind.ABANDON else changed
    if plan.kind is Kind.SALE and changed == 0:
        # All of it is sold out. Somebody notices and fills it up.
        return await _carry_out(connection, planner, planner.restock(plan.lines[0]), tally)
    return changed


async def _transact(connection: Any, planner: Planner, plan: Plan) -> int:
    if len(plan.lines) == 1 and plan.kind is not Kind.ABANDON:
        # Its own transaction, in one round trip.
        return await _change(connection, planner, plan, plan.lines[0])
    changed: list[int] = []
    try:
        async with connection.transaction():
            changed += [await _change(connection, planner, plan, line) for line in plan.lines]
            _undo_in_part(plan, changed)
    except _Undone:
        return 0
    return sum(changed)


def _undo_in_part(plan: Plan, changed: list[int]) -> None:
    """A transfer happens as a whole or not at all."""
    if plan.kind is Kind.ABANDON or (plan.kind is Kind.TRANSFER and not all(changed)):
        raise _Undone


async def _change(connection: Any, planner: Planner, plan: Plan, line: Line) -> int:
    """Returns 1 if the row could be changed, else 0."""
    if plan.kind is Kind.PRICE:
        low = await connection.fetchval(_PRICE, line.product_id, plan.value)
    elif plan.kind is Kind.STATUS:
        low = await connection.fetchval(_STATUS, line.product_id, plan.value)
    else:
        sql = _SQL.get(plan.kind, _SQL[Kind.SALE])
        low = await connection.fetchval(sql, line.product_id, line.location_id, line.quantity)
    if low:
        planner.noted_short(line)
    return 0 if low is None else 1
