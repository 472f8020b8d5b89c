from dataclasses import astuple, dataclass
from hashlib import sha256
from typing import Any, Final

import orjson

from listeners.postgres import brief_transaction

__all__ = [
    "Identity",
    "adopt_database",
    "count_on",
    "place_of",
    "read_identity",
    "read_place",
    "read_system",
    "renew_nonce",
    "skip_to_now",
    "start_over",
]


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything that fences rewinds: when any of it changes, every topic is void."""

    system: str  # of the cluster and the database: another one after a restore from a dump
    timeline: str  # another one after a failover or a restore to a point in time
    alive: str  # drawn anew after a crash, which may take back commits that were seen
    losses: str  # moves when triggers skip logging because no relay came for too long
    sources: str  # what feeds the topics, and its triggers: without them rows come that no log tells of
    nonce: str  # changed by `resync`, and when a restored database was recognised
    redis: str  # run id and replication id: topics may have gone back, or be gone

    @property
    def generation(self) -> str:
        """Its second part names the place, so that whoever reads rows for it can tell where to."""
        return _digest(*astuple(self))[:_WHOLE] + self.place

    @property
    def place(self) -> str:
        """Which server, which database, and which history of it; not what may change while it goes on."""
        return _digest(self.system, self.timeline, self.alive, self.nonce)[:_PLACE]


_WHOLE: Final = 16
_PLACE: Final = 8


def _digest(*parts: str) -> str:
    return sha256(orjson.dumps(parts)).hexdigest()


def place_of(generation: str) -> str:
    """The Identity.place that a generation was made of; "" of one that an earlier release has made."""
    return generation[_WHOLE:]


_SYSTEM = """
    (SELECT system_identifier::text FROM pg_control_system()) || '/' ||
    (SELECT oid::text FROM pg_database WHERE datname = current_database())
"""

# What was skipped comes with its transaction's end, after the sequence has moved: see listeners.losses.
# The xmin of a trigger tells that it was switched off, if only for a moment: what was written meanwhile is in
# no log. So does its oid, if the table was restored from a dump: there the rows come before the triggers.
# The timeline of the last checkpoint lags behind a promotion; that of the WAL being written does not.
_READ_IDENTITY = f"""
    SELECT {_SYSTEM} AS system,
           left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) AS timeline,
           (SELECT min(id) FROM gateway.alive) AS alive,
           (SELECT last_value::text || is_called::text FROM gateway.loss_seq) AS losses,
           (SELECT md5(string_agg(concat_ws(' ', s.name, s.checksum, extract(epoch FROM s.attached_at),
                                            t.oid, t.xmin, t.tgenabled), ',' ORDER BY s.name, t.oid))
            FROM gateway.sources s
            LEFT JOIN pg_trigger t ON t.tgrelid = s.table_id AND NOT t.tgisinternal
                AND t.tgname LIKE '%gateway%') AS sources,
           (SELECT nonce FROM gateway.control) AS nonce
"""  # noqa: S608  # both parts are ours

# Rows that the snapshot of this very statement says are not visible yet, and yet are seen: their xids were
# given out by another cluster, before a dump of it was restored here.
_SKIP_TO_NOW = """
    WITH foreign_rows AS (
        DELETE FROM gateway.change_log
        WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())
           OR xid = ANY (ARRAY(SELECT pg_snapshot_xip(pg_current_snapshot())))
    )
    UPDATE gateway.position
    SET snapshot = pg_current_snapshot()::text, counter = greatest(counter, $1) + 1,
        updated_at = clock_timestamp()
    RETURNING snapshot, counter
"""


async def read_system(connection: Any) -> str:
    """Which cluster and which database of it the connection leads to."""
    system: str = await connection.fetchval(f"SELECT {_SYSTEM}")
    return system


async def read_identity(connection: Any, redis: str) -> Identity:
    """The identity now. An empty gateway.alive (the server has crashed) is an `alive` of its own."""
    record = await connection.fetchrow(_READ_IDENTITY)
    return Identity(
        system=record["system"],
        timeline=record["timeline"],
        alive=record["alive"] or "",
        losses=record["losses"],
        sources=record["sources"] or "",
        nonce=record["nonce"] or "",
        redis=redis,
    )


async def read_place(connection: Any) -> str:
    """The Identity.place that the connection leads to now. Raises what asyncpg raises, also on a standby."""
    return (await read_identity(connection, "")).place


async def adopt_database(connection: Any) -> bool:
    """Give the database an `alive` id if it has none of its own; True if the saved position is void then.

    The id names the system it was drawn on, so one that came with a dump of another system does not count.
    Position and id change in one transaction: a relay that dies on the way leaves no half of it.
    """
    async with brief_transaction(connection):
        if await connection.fetchval(
            f"SELECT EXISTS (SELECT FROM gateway.alive WHERE id LIKE '%@' || {_SYSTEM})"  # noqa: S608  # ours
        ):
            return False
        await connection.execute("DELETE FROM gateway.alive")
        await connection.execute(
            f"INSERT INTO gateway.alive (id) SELECT gen_random_uuid()::text || '@' || {_SYSTEM}"
        )
        await skip_to_now(connection)
    return True


async def skip_to_now(connection: Any, *, counter: int = 0) -> tuple[str, int]:
    """Move the position to the current snapshot and its counter above `counter`; drops foreign log rows.

    Right only together with a new generation, since what was not read yet is skipped.
    """
    snapshot, reached = await connection.fetchrow(_SKIP_TO_NOW, counter)
    return snapshot, reached


async def count_on(connection: Any) -> int:
    """Move the position's counter and return it.

    Redis is told before a reign publishes anything: whoever puts back the files of a server that was shut
    down before, puts back a smaller counter, even if the reign did not come to save its position.
    """
    counter: int = await connection.fetchval(
        "UPDATE gateway.position SET counter = counter + 1 RETURNING counter"
    )
    return counter


async def start_over(connection: Any, *, counter: int = 0) -> None:
    """A new generation from the current snapshot on, all or nothing."""
    async with brief_transaction(connection):
        await renew_nonce(connection)
        await skip_to_now(connection, counter=counter)


async def renew_nonce(connection: Any) -> None:
    """Make the next generation another one, whatever else stays the same."""
    await connection.execute("UPDATE gateway.control SET nonce = gen_random_uuid()::text")
