from typing import Any

from listeners.losses import LossWatch


class Transaction:
    async def start(self) -> None: ...
    async def commit(self) -> None: ...
    async def rollback(self) -> None: ...
    async def __aenter__(self) -> None: ...
    async def __aexit__(self, *_: object) -> None: ...


class Database:
    """Answers as Postgres does, and counts the nonces that were asked for."""

    def __init__(self, *, losses: str, running: list[str], settled: str = "1false") -> None:
        self.row: dict[str, Any] = {"settled": settled, "losses": losses, "running": running}
        self.nonces = 0

    async def fetchrow(self, _: str) -> dict[str, Any]:
        return dict(self.row)

    def transaction(self) -> Transaction:
        return Transaction()

    async def execute(self, statement: str, *arguments: str) -> None:
        if "losses_settled" in statement:
            [self.row["settled"]] = arguments
        self.nonces += "nonce" in statement


async def look(watch: LossWatch, database: Database, times: int) -> list[bool]:
    return [await watch.look(database) for _ in range(times)]


class TestLossWatch:
    async def test_without_losses_there_is_nothing_to_do(self) -> None:
        database = Database(losses="1false", running=["8", "9"])
        assert await look(LossWatch(), database, 4) == [False] * 4
        assert database.nonces == 0

    async def test_a_loss_asks_for_one_more_generation(self) -> None:
        """Not at the first look: its snapshot may be older than the counter that it saw."""
        database = Database(losses="7true", running=[])
        assert await look(LossWatch(), database, 4) == [False, True, False, False]
        assert database.nonces == 1

    async def test_and_for_another_one_whenever_some_have_ended_that_were_running(self) -> None:
        watch, database = LossWatch(), Database(losses="7true", running=["20", "21", "22"])
        assert await look(watch, database, 3) == [False, True, False]
        database.row["running"] = ["21", "30"]
        assert await look(watch, database, 2) == [True, False]
        database.row["running"] = ["31"]
        assert await look(watch, database, 2) == [True, False]
        database.row["running"] = []
        assert await look(watch, database, 2) == [False, False]
        assert database.nonces == 3

    async def test_the_next_reign_goes_on_with_it(self) -> None:
        database = Database(losses="7true", running=["20"])
        await look(LossWatch(), database, 2)
        assert await look(LossWatch(), database, 3) == [False] * 3
        database.row["running"] = []
        assert await look(LossWatch(), database, 2) == [True, False]

    async def test_a_further_loss_begins_anew(self) -> None:
        watch, database = LossWatch(), Database(losses="7true", running=["20"])
        await look(watch, database, 2)
        database.row |= {"losses": "8true", "running": ["20", "30"]}
        assert await look(watch, database, 3) == [False, True, False]
        database.row["running"] = ["20"]
        assert await look(watch, database, 2) == [True, False]
