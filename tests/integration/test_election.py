import asyncio
from typing import Any

import pytest

from listeners.election import Election, LockLost
from listeners.errors import Refused, Unavailable
from tests.support.databases import with_database
from tests.support.proxy import proxied
from tests.support.waiting import eventually

HOLDERS = """
    SELECT pid FROM pg_locks
    WHERE locktype = 'advisory' AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def quick(dsn: str) -> Election:
    return Election(dsn, retry_s=0.05, ping_s=0.05, timeout_s=0.5)


class Candidate:
    """Stands for election until it has been elected once, and reigns until it is told to stop."""

    def __init__(self, dsn: str) -> None:
        self._election = quick(dsn)
        self.elected = False
        self.stop = asyncio.Event()

    async def run(self) -> None:
        async with self._election.elected() as tenure, asyncio.TaskGroup() as group:
            self.elected = True
            watch = group.create_task(tenure.watch())
            await self.stop.wait()
            watch.cancel()


class TestOneReigns:
    async def test_and_the_next_one_follows_when_it_lets_go(self, database_url: str) -> None:
        first, second = Candidate(database_url), Candidate(database_url)
        async with asyncio.TaskGroup() as group:
            group.create_task(first.run())
            await eventually(lambda: first.elected)
            group.create_task(second.run())
            with pytest.raises(AssertionError):
                await eventually(lambda: second.elected, timeout_s=0.3)
            first.stop.set()
            await eventually(lambda: second.elected)
            second.stop.set()

    async def test_in_each_database(self, database_url: str, empty_database_url: str) -> None:
        async with quick(database_url).elected() as one, quick(empty_database_url).elected() as other:
            assert not one.lost
            assert not other.lost

    async def test_a_waiting_candidate_holds_no_snapshot(self, database_url: str, pg: Any) -> None:
        candidate = Candidate(database_url)
        async with quick(database_url).elected(), asyncio.TaskGroup() as group:
            task = group.create_task(candidate.run())
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%relay lock' AND {}"
            await eventually(lambda: _is(pg, waiting.format("state = 'idle'"), 2))
            task.cancel()


async def _is(connection: Any, query: str, value: object) -> bool:
    return bool(await connection.fetchval(query) == value)


class TestLosingTheLock:
    async def test_when_its_backend_is_terminated_the_reign_ends_and_another_begins(
        self, database_url: str, pg: Any
    ) -> None:
        first, second = Candidate(database_url), Candidate(database_url)
        task = asyncio.create_task(first.run())
        await eventually(lambda: first.elected)
        async with asyncio.TaskGroup() as group:
            group.create_task(second.run())
            await pg.fetchval(f"SELECT pg_terminate_backend(pid) FROM ({HOLDERS}) holder")
            with pytest.raises(ExceptionGroup) as caught:
                await task
            assert caught.group_contains(LockLost)
            await eventually(lambda: second.elected)
            second.stop.set()

    async def test_a_frozen_link_counts_as_lost(self, database_url: str) -> None:
        async with proxied(database_url) as (proxy, url), quick(url).elected() as tenure:
            proxy.freeze()
            with pytest.raises(LockLost, match="did not answer in time"):
                await tenure.watch()
            assert tenure.lost

    async def test_a_frozen_holder_is_thrown_out_by_the_server(self, database_url: str, pg: Any) -> None:
        async with quick(database_url).elected() as tenure:
            (holder,) = await pg.fetch(HOLDERS)
            # Nobody pings: the session ends by itself.
            await eventually(lambda: tenure.lost, timeout_s=6)
            assert holder["pid"] not in [record["pid"] for record in await pg.fetch(HOLDERS)]
            with pytest.raises(LockLost, match="closed"):
                await tenure.watch()

    async def test_a_pooler_that_changes_the_session_is_noticed(self, database_url: str) -> None:
        async with quick(database_url).elected() as tenure:
            tenure._backend += 1
            with pytest.raises(LockLost, match="PgBouncer"):
                await tenure.watch()


class TestACandidateThatIsNotFit:
    async def test_does_not_stand_and_holds_up_nobody(self, database_url: str, pg: Any) -> None:
        async def fit() -> None:
            raise Unavailable("Redis can not be reached")

        with pytest.raises(Unavailable, match="Redis"):
            async with quick(database_url).elected(fit):
                raise AssertionError
        assert await pg.fetch(HOLDERS) == []

    async def test_any_more_stops_waiting(self, database_url: str) -> None:
        asked = 0

        async def fit() -> None:
            nonlocal asked
            asked += 1
            if asked == 3:
                raise Unavailable("Redis can not be reached")

        async with quick(database_url).elected():
            with pytest.raises(Unavailable, match="Redis"):
                async with quick(database_url).elected(fit):
                    raise AssertionError
        assert asked == 3


class TestReleasing:
    async def test_early_lets_the_next_one_in_and_ends_well(self, database_url: str) -> None:
        async with quick(database_url).elected() as tenure:
            await tenure.release()
            async with quick(database_url).elected() as next_one:
                assert not next_one.lost

    async def test_over_a_link_that_says_nothing_takes_no_time(self, database_url: str) -> None:
        async with proxied(database_url) as (proxy, url):
            async with quick(url).elected() as tenure:
                proxy.black_hole()
                began = asyncio.get_running_loop().time()
                await tenure.release()
            assert asyncio.get_running_loop().time() - began < 1.5


class TestNoElection:
    async def test_while_postgres_can_not_be_reached(self, database_url: str) -> None:
        async with proxied(database_url) as (proxy, url):
            proxy.refuse()
            with pytest.raises(Unavailable):
                async with quick(url).elected():
                    raise AssertionError

    async def test_where_there_is_no_such_database(self, database_url: str) -> None:
        with pytest.raises(Refused, match="does not exist"):
            async with quick(with_database(database_url, "nowhere")).elected():
                raise AssertionError
