import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from listeners.errors import StaleTerm
from listeners.source_sql import ReadSql, quote_literal

__all__ = [
    "PAGE_ROWS",
    "Batch",
    "ChangeLog",
    "LogRow",
    "SavedPosition",
    "load_position",
    "next_term",
    "save_position",
]

PAGE_ROWS: Final = 4000


class LogRow(NamedTuple):
    """One row of gateway.change_log, with what was looked up for it in the same snapshot."""

    id: int
    source: str | None
    kind: str | None  # of the source: stock, product, location; None for markers
    op: str  # I U D, T truncate marker, C canary
    version: int | None
    item: str | None  # JSON; of a D the old row
    gone: list[str] | None  # topics that the row has left
    recorded_at_ms: int
    locations: list[str] | None = None  # product rows: where the product has stock now
    product: str | None = None  # stock rows that came into a topic: the product's item now, JSON
    product_version: int | None = None
    location_active: bool | None = None  # stock rows


_COLUMNS: Final = ("snapshot", *LogRow._fields)


@dataclass(frozen=True, slots=True)
class Batch:
    """What became visible between two snapshots, ordered by log id.

    `more`: there are more rows than were asked for, and these are only the first; read `pages` instead.
    """

    snapshot: str
    rows: list[LogRow]
    more: bool


class ChangeLog:
    """Reads the exact difference of two snapshots: each committed row once, however late it was committed.

    Ids are not allocated in commit order, so reading on from the last id loses rows; waiting until no older
    transaction runs stalls behind each long one. `sql` is made by listeners.source_sql.read_sql.
    """

    def __init__(self, sql: ReadSql, *, limit: int = PAGE_ROWS) -> None:
        self.sql = sql
        self._limit = limit

    async def read(self, connection: Any, since: str, *, timeout_s: float | None = None) -> Batch:
        """What a statement begun now can see and the snapshot `since` could not."""
        records = await connection.fetch(self.sql.read, since, self._limit + 1, timeout=timeout_s)
        return _batch(records, self._limit)

    async def pages(
        self, connection: Any, since: str, *, timeout_s: float | None = None
    ) -> AsyncGenerator[Batch, None]:
        """The same difference, however large, a page at a time; memory is bounded by the page.

        All pages belong to one snapshot, and the position may move to it only after the last one. To look
        things up in the same snapshot would keep a transaction open, and with it a lock on each of the shop's
        tables, for as long as a large backlog takes: whoever alters or truncates one of them would wait, and
        all the shop behind him. What is looked up later is newer, which does no harm: what made it newer is
        in the log as well, and comes again.
        """
        if not _is_snapshot(since):
            raise ValueError(f"{since!r} is no pg_snapshot")
        # What an earlier reading that came to no end has left behind would stand in the way.
        declare = f"CLOSE ALL; {self.sql.hold.format(since=quote_literal(since))}"
        await connection.execute(declare, timeout=timeout_s)
        [first] = await connection.fetch("FETCH 1 FROM gateway_log", timeout=timeout_s)
        fetch = f"FETCH {int(self._limit)} FROM gateway_log"
        records = await connection.fetch(fetch, timeout=timeout_s)
        while True:
            yield Batch(first["snapshot"], await self._looked_up(connection, records, timeout_s), more=False)
            records = await connection.fetch(fetch, timeout=timeout_s)
            if not records:
                break
        await connection.execute("CLOSE gateway_log", timeout=timeout_s)

    async def _looked_up(self, connection: Any, records: list[Any], timeout_s: float | None) -> list[LogRow]:
        """Most rows of stock ask for nothing but whether their location is active: one asks for all of it."""
        asking: list[Any] = []
        spoken_for: dict[str | None, int] = {}  # by location: the row that asks
        for record in records:
            if record["item"] is None:
                continue
            if (
                record["kind"] == "product"
                or _came_into_a_topic(record)
                or (
                    _is_live_stock(record)
                    and spoken_for.setdefault(record["location_id"], record["id"]) == record["id"]
                )
            ):
                asking.append(record)
        if not asking:
            return [LogRow._make((*record[1:_LOGGED], *_NO_ANSWER)) for record in records]
        columns = zip(
            *((r["id"], r["kind"], r["op"], r["item"], r["gone"] and "") for r in asking), strict=True
        )
        found = await connection.fetch(self.sql.look_up, *map(list, columns), timeout=timeout_s)
        answers = {record["id"]: record[1:] for record in found}
        shared = {location: (None, None, None, answers[row][-1]) for location, row in spoken_for.items()}
        return [
            LogRow._make((*record[1:_LOGGED], *(answers.get(record["id"]) or _answer(record, shared))))
            for record in records
        ]


_NO_ANSWER: Final = (None, None, None, None)
# The columns of a row that was put aside: the snapshot, those of the log, and the location.
_LOGGED: Final = len(LogRow._fields) - len(_NO_ANSWER) + 1


def _is_live_stock(record: Any) -> bool:
    return bool(record["kind"] == "stock" and record["op"] != "D")


def _came_into_a_topic(record: Any) -> bool:
    return record["kind"] == "stock" and (
        record["op"] == "I" or (record["op"] == "U" and record["gone"] is not None)
    )


def _answer(record: Any, shared: dict[str | None, tuple[Any, ...]]) -> tuple[Any, ...]:
    """What another row of the location has been told. A tombstone needs nothing."""
    if not _is_live_stock(record):
        return _NO_ANSWER
    return shared.get(record["location_id"], _NO_ANSWER)


_is_snapshot: Final = re.compile(r"[0-9]+:[0-9]+:[0-9,]*").fullmatch


def _batch(records: list[Any], limit: int) -> Batch:
    first = records[0]  # the statement gives the snapshot also when there are no rows
    if tuple(first.keys()) != _COLUMNS:
        raise TypeError(f"the statement gives the columns {tuple(first.keys())}, not {_COLUMNS}")
    if first["id"] is None:
        return Batch(first["snapshot"], [], more=False)
    rows = [LogRow._make(record[1:]) for record in records[:limit]]
    rows.sort(key=_log_id)
    return Batch(first["snapshot"], rows, more=len(records) > limit)


def _log_id(row: LogRow) -> int:
    return row.id


class SavedPosition(NamedTuple):
    """How far the relays have come. `counter` moves with it, so that a restored database is recognised."""

    snapshot: str | None
    counter: int
    term: int


async def load_position(connection: Any) -> SavedPosition:
    record = await connection.fetchrow("SELECT snapshot, counter, term FROM gateway.position")
    return SavedPosition(*record)


async def next_term(connection: Any) -> SavedPosition:
    """Begin a new term; whoever reigned before can not move the position any more."""
    record = await connection.fetchrow(
        "UPDATE gateway.position SET term = term + 1 RETURNING snapshot, counter, term"
    )
    return SavedPosition(*record)


async def save_position(connection: Any, snapshot: str, *, term: int | None = None) -> int:
    """Move the position; what was read up to it must have been acknowledged by Redis. Returns the counter.

    Raises StaleTerm if `term` is given and a later one has begun.
    """
    counter: int | None = await connection.fetchval(
        "UPDATE gateway.position SET snapshot = $1, counter = counter + 1, updated_at = clock_timestamp()"
        " WHERE term = coalesce($2, term) RETURNING counter",
        snapshot,
        term,
    )
    if counter is None:
        raise StaleTerm("a later term has begun and keeps the position now")
    return counter
