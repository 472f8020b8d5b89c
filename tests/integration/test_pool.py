"""The pool over a link that can die in silence."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from listeners.pool import ProbingPool, create_pool
from listeners.postgres import Connection
from tests.support.proxy import proxied
from tests.support.waiting import eventually

PATIENCE_S = 0.4
CONNECT_S = 2.0
# Of those that are watched: the watcher has to make a connection in this time.
WATCHED_S = 0.8


async def make(url: str, *, max_size: int = 8) -> ProbingPool:
    """It is patient with a busy machine that has to make connections."""
    pool = await create_pool(url, timeout_s=CONNECT_S, max_size=max_size)
    pool._probe_timeout_s = PATIENCE_S
    return pool


async def warm(pool: asyncpg.Pool, connections: int) -> None:
    """Opens so many, which lie idle afterwards. On a busy machine the pool may take one for dead."""

    async def warmed() -> bool:
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(pool.execute("SELECT pg_sleep(0.05)"))
        return bool(pool.get_idle_size() == connections)

    await eventually(warmed)


class TestConnectionsThatDiedInSilence:
    async def test_cost_one_probe_together(self, database_url: str) -> None:
        async with proxied(database_url) as (proxy, url):
            pool = await make(url)
            await warm(pool, 6)
            pool._fresh_s = 0
            proxy.black_hole()
            began = time.monotonic()
            assert await asyncio.gather(*(pool.fetchval("SELECT 7") for _ in range(8))) == [7] * 8
            assert PATIENCE_S <= time.monotonic() - began < 4 * PATIENCE_S
            pool.terminate()

    async def test_are_replaced_one_after_the_other_as_well(self, database_url: str) -> None:
        async with proxied(database_url) as (proxy, url):
            pool = await make(url)
            await warm(pool, 6)
            pool._fresh_s = 0
            proxy.black_hole()
            began = time.monotonic()
            for _ in range(8):
                assert await pool.fetchval("SELECT 7") == 7
            assert time.monotonic() - began < 4 * PATIENCE_S
            pool.terminate()

    async def test_in_the_middle_of_a_statement_are_not_used_again(self, database_url: str) -> None:
        async with proxied(database_url) as (proxy, url):
            pool = await make(url, max_size=1)
            await warm(pool, 1)
            proxy.black_hole()
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                await pool.fetchval("SELECT 7", timeout=PATIENCE_S)
            assert await pool.fetchval("SELECT 7") == 7
            assert time.monotonic() - began < 4 * PATIENCE_S
            pool.terminate()

    async def test_are_dropped_by_a_caller_who_leaves_meanwhile(self, database_url: str) -> None:
        async with proxied(database_url) as (proxy, url):
            pool = await make(url, max_size=1)
            await warm(pool, 1)
            pool._fresh_s = 0
            proxy.black_hole()
            asking = asyncio.create_task(pool.fetchval("SELECT 7"))
            await eventually(lambda: pool.get_idle_size() == 0 or asking.done())
            asking.cancel()
            await asyncio.wait([asking])
            assert asking.cancelled()
            assert await pool.fetchval("SELECT 7") == 7
            pool.terminate()

    async def test_are_dropped_by_a_caller_who_leaves_in_the_middle_of_a_statement(
        self, database_url: str
    ) -> None:
        async with proxied(database_url) as (proxy, url):
            pool = await make(url, max_size=1)
            await warm(pool, 1)
            proxy.black_hole()
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await pool.fetchval("SELECT 7")
            assert time.monotonic() - began < 4 * PATIENCE_S
            assert await pool.fetchval("SELECT 7") == 7
            pool.terminate()


class TestAServerThatFroze:
    async def test_is_told_in_time(self, database_url: str) -> None:
        async with proxied(database_url) as (proxy, url):
            pool = await make(url)
            await warm(pool, 4)
            pool._fresh_s = 0
            proxy.freeze()
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                await pool.fetchval("SELECT 7")
            assert time.monotonic() - began < 2 * (PATIENCE_S + CONNECT_S)  # a probe, and a try to connect
            proxy.thaw()
            assert await pool.fetchval("SELECT 7") == 7
            pool.terminate()


class TestConnectionsInUse:
    @pytest.mark.parametrize("fresh_s", [0, 60])
    async def test_are_asked_only_when_they_lay_idle(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch, fresh_s: float
    ) -> None:
        asked = []

        async def probe(connection: Any, *, timeout_s: float) -> None:
            asked.append(timeout_s)

        monkeypatch.setattr("listeners.pool.probe", probe)
        pool = await make(database_url, max_size=1)
        pool._fresh_s = fresh_s
        backends = [await pool.fetchval("SELECT pg_backend_pid()") for _ in range(3)]
        assert len(set(backends)) == 1
        assert asked == ([] if fresh_s else [PATIENCE_S] * 2)
        pool.terminate()

    async def test_end_by_themselves_when_they_expire_and_at_once_where_they_lie_idle(
        self, database_url: str
    ) -> None:
        pool = await make(database_url, max_size=3)
        await warm(pool, 3)
        async with pool.acquire() as lent:
            expired = await lent.fetchval("SELECT pg_backend_pid()")
            await pool.expire_connections()
            assert pool.get_size() == 1, "of those that lay idle none is left"
        assert pool.get_size() == 0
        assert await pool.fetchval("SELECT pg_backend_pid()") != expired
        pool.terminate()

    async def test_stay_when_an_answer_was_an_error(self, database_url: str) -> None:
        pool = await create_pool(database_url, max_size=1)
        first = await pool.fetchval("SELECT pg_backend_pid()")
        with pytest.raises(asyncpg.DivisionByZeroError):
            await pool.fetchval("SELECT 1 / 0")
        assert await pool.fetchval("SELECT pg_backend_pid()") == first
        pool.terminate()


class TestWatching:
    """What takes longer than a probe is looked after over another link."""

    async def test_ends_a_statement_whose_answer_is_lost(self, database_url: str) -> None:
        async with proxied(database_url) as (proxy, url), watched(url) as pool:
            asking = asyncio.create_task(pool.fetchval(f"SELECT pg_sleep({WATCHED_S})"))
            await eventually(lambda: pool.get_idle_size() == 0 and pool.get_size() == 1)
            await asyncio.sleep(WATCHED_S / 2)
            proxy.black_hole()
            began = time.monotonic()
            with pytest.raises(asyncpg.ConnectionDoesNotExistError):
                await asking
            assert time.monotonic() - began < 8 * WATCHED_S
            assert await pool.fetchval("SELECT 7") == 7

    async def test_ends_one_whose_backend_is_gone_without_a_word(self, database_url: str, pg: Any) -> None:
        """The link is silent already when the server is restarted, or the backend thrown out."""
        async with proxied(database_url) as (proxy, url), watched(url) as pool:
            asking = asyncio.create_task(pool.fetchval("SELECT pg_sleep(60)"))
            asked = (
                "FROM pg_stat_activity WHERE datname = current_database() AND state = 'active'"
                " AND query = 'SELECT pg_sleep(60)'"
            )
            await eventually(lambda: pg.fetchval(f"SELECT true {asked}"))  # it has come so far
            proxy.black_hole()
            await eventually(lambda: pg.fetchval(f"SELECT pg_terminate_backend(pid, 5000) {asked}"))
            async with asyncio.timeout(8 * WATCHED_S):
                with pytest.raises(asyncpg.ConnectionDoesNotExistError):
                    await asking
            assert await pool.fetchval("SELECT 7") == 7

    async def test_ends_nothing_of_which_a_pooler_has_told_another_pid(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Connection, "get_server_pid", lambda _: 1)
        async with watched(database_url) as pool:
            assert await pool.fetchval(f"SELECT 7 FROM pg_sleep({4 * WATCHED_S})") == 7

    async def test_waits_for_a_statement_that_takes_long(self, database_url: str) -> None:
        async with watched(database_url) as pool:
            assert await pool.fetchval(f"SELECT 7 FROM pg_sleep({4 * WATCHED_S})") == 7

    async def test_waits_for_one_that_is_used_now_and_then(self, database_url: str) -> None:
        async with watched(database_url) as pool, pool.acquire() as connection:
            for _ in range(8):
                await connection.execute("SELECT 7")
                await asyncio.sleep(WATCHED_S / 2)
            assert not connection.is_closed()

    async def test_ends_everything_on_a_server_that_froze(self, database_url: str) -> None:
        async with proxied(database_url) as (proxy, url), watched(url) as pool:
            asking = [asyncio.create_task(pool.fetchval("SELECT pg_sleep(60)")) for _ in range(8)]
            await eventually(lambda: pool.get_size() == 8 and pool.get_idle_size() == 0)
            proxy.freeze()
            began = time.monotonic()
            answers = await asyncio.gather(*asking, return_exceptions=True)
            assert time.monotonic() - began < 8 * WATCHED_S
            assert all(isinstance(answer, asyncpg.ConnectionDoesNotExistError) for answer in answers)

    async def test_ends_nothing_where_it_is_refused_itself(self, database_url: str) -> None:
        async with proxied(database_url) as (proxy, url), watched(url) as pool:
            asking = asyncio.create_task(pool.fetchval(f"SELECT 7 FROM pg_sleep({3 * WATCHED_S})"))
            await eventually(lambda: pool.get_size() == 1 and pool.get_idle_size() == 0)
            proxy.retarget("127.0.0.1", 1)
            assert await asking == 7


@asynccontextmanager
async def watched(url: str) -> AsyncIterator[ProbingPool]:
    pool = await create_pool(url, timeout_s=WATCHED_S)
    watching = asyncio.create_task(pool.watch())
    yield pool
    assert not watching.done()
    watching.cancel()
    await asyncio.wait([watching])
    pool.terminate()
