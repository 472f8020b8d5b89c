import asyncpg
import pytest

from listeners.backoff import Backoff
from listeners.short_locks import LOCK_TIMEOUT_MS, NeverFree, with_short_locks

QUICKLY = Backoff(0.0001, 0.0001)


class Transaction:
    async def __aenter__(self) -> None: ...
    async def __aexit__(self, *_: object) -> None: ...


class Database:
    def __init__(self, *refusals: type[Exception]) -> None:
        self.refusals = list(refusals)
        self.said: list[str] = []

    def transaction(self) -> Transaction:
        return Transaction()

    async def execute(self, statement: str) -> None:
        self.said.append(statement)

    async def work(self) -> str:
        if self.refusals:
            raise self.refusals.pop(0)
        return "done"


class TestWithShortLocks:
    async def test_the_wait_for_a_lock_is_short_and_within_the_transaction(self) -> None:
        database = Database()
        assert await with_short_locks(database, database.work) == "done"
        assert database.said == [f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"]

    def test_it_ends_before_postgres_looks_for_a_deadlock_and_may_choose_a_writer(self) -> None:
        assert LOCK_TIMEOUT_MS < 1000

    async def test_what_is_not_free_is_tried_again(self) -> None:
        database = Database(asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
        assert await with_short_locks(database, database.work, backoff=QUICKLY) == "done"
        assert len(database.said) == 3

    async def test_but_not_for_ever(self) -> None:
        database = Database(*[asyncpg.LockNotAvailableError] * 3)
        with pytest.raises(NeverFree, match="never free for 20 ms in 3 attempts"):
            await with_short_locks(database, database.work, lock_timeout_ms=20, attempts=3, backoff=QUICKLY)

    async def test_any_other_error_is_the_callers(self) -> None:
        database = Database(asyncpg.UndefinedTableError)
        with pytest.raises(asyncpg.UndefinedTableError):
            await with_short_locks(database, database.work, backoff=QUICKLY)
