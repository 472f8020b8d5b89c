import asyncio
from typing import Any, Final

import asyncpg

from listeners.postgres import brief_transaction

__all__ = ["LEAVES", "clear_leaf", "empty_old_leaves"]

LEAVES: Final = 8  # change_log_0 .. change_log_7, one an hour, round and round
# A busy relay's own reader has all leaves locked for much of the time, but each time for a moment only.
_TRIES: Final = 8
_PAUSE_S: Final = 0.007

# Rows that the saved position has not passed. Both halves use the index on xid.
_UNREAD = """
    EXISTS (SELECT FROM gateway.{leaf} WHERE xid >= pg_snapshot_xmax($1::text::pg_snapshot)) OR
    EXISTS (SELECT FROM gateway.{leaf} WHERE xid = ANY (ARRAY(SELECT pg_snapshot_xip($1::text::pg_snapshot))))
"""


async def empty_old_leaves(connection: Any, *, keep_hours: int = 1) -> list[str]:
    """Truncate the leaves of the ring that everybody is done with; returns their names.

    A leaf is done when each of its rows is visible in the saved position and at least `keep_hours` old; the
    running hour is never touched. Neither writers nor the reader wait for this: a leaf that somebody has
    locked is left for the next time.
    """
    position = await connection.fetchval("SELECT snapshot FROM gateway.position")
    if position is None:
        return []
    # A row's slot is the hour in which it was recorded, so the slot says how old its rows are at least.
    hour = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::bigint / 3600")
    young = {(hour - ago) % LEAVES for ago in range(keep_hours + 1)}
    leaves = [f"change_log_{number}" for number in range(LEAVES) if number not in young]
    return [
        leaf
        for leaf in leaves
        if await _is_done(connection, leaf, position) and await clear_leaf(connection, leaf, position)
    ]


async def _is_done(connection: Any, leaf: str, position: str) -> bool:
    """Without a lock; what comes into the leaf later is caught by the check under it."""
    if await connection.fetchval(f"SELECT pg_relation_size('gateway.{leaf}') = 0"):
        return False
    unread = await connection.fetchval(f"SELECT {_UNREAD.format(leaf=leaf)}", position)
    return not unread


async def clear_leaf(connection: Any, leaf: str, position: str) -> bool:
    """Lock the leaf, make sure that nothing unread has come into it, and truncate it.

    False if somebody keeps it locked, or if there is something to be read.
    """
    for attempt in range(_TRIES):
        if attempt:
            await asyncio.sleep(_PAUSE_S)
        try:
            return await _clear_unlocked(connection, leaf, position)
        except asyncpg.LockNotAvailableError:
            continue
    return False


async def _clear_unlocked(connection: Any, leaf: str, position: str) -> bool:
    """Raises LockNotAvailableError at once: whoever waits for this lock makes all others wait."""
    async with brief_transaction(connection):
        await connection.execute(f"LOCK TABLE gateway.{leaf} IN ACCESS EXCLUSIVE MODE NOWAIT")
        if await connection.fetchval(f"SELECT {_UNREAD.format(leaf=leaf)}", position):
            return False
        await connection.execute(f"TRUNCATE gateway.{leaf}")
    return True
