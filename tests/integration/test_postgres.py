import asyncio
import errno
import gc
import socket
import time
from typing import Any

import asyncpg
import pytest

from listeners.errors import Refused, Unavailable
from listeners.pool import create_pool
from listeners.postgres import (
    Connection,
    both_connected,
    brief_transaction,
    close,
    connect,
    connected,
    probe,
    transaction,
)
from tests.support.databases import with_database
from tests.support.proxy import proxied
from tests.support.waiting import eventually


class TestADedicatedConnection:
    async def test_names_its_purpose_and_notices_a_dead_peer(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        links: list[Any] = []
        monkeypatch.setattr("listeners.postgres.set_deadlines", links.append)
        async with connected(database_url, purpose="test") as connection:
            name = await connection.fetchval("SELECT current_setting('application_name')")
        assert name == "inventory-gateway test"
        assert [link.family for link in links] == [socket.AF_INET]

    async def test_whose_link_is_gone_before_it_was_set_up_is_left_to_nobody(
        self, database_url: str, pg: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def gone(_: Any) -> None:
            raise OSError(errno.EBADF, "Bad file descriptor")

        monkeypatch.setattr("listeners.postgres.set_deadlines", gone)
        with pytest.raises(Unavailable):
            await connect(database_url, purpose="gone")
        gc.collect()  # asyncpg warns of a connection that nobody has closed, and warnings are errors here
        here = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '% gone'"
        await eventually(lambda: _is_zero(pg, here))

    async def test_survives_a_change_of_the_schema(self, database_url: str, pg: Any) -> None:
        async with connected(database_url, purpose="test") as connection:
            await connection.fetch("SELECT * FROM vendors")
            await pg.execute("ALTER TABLE vendors ADD COLUMN color text")
            assert await connection.fetch("SELECT * FROM vendors") == []

    async def test_of_an_old_server_is_refused(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = asyncpg.types.ServerVersion(major=13, minor=9, micro=0, releaselevel="final", serial=0)
        monkeypatch.setattr(Connection, "get_server_version", lambda _: old)
        with pytest.raises(Refused, match="Postgres 14 or newer is needed"):
            await connect(database_url, purpose="test")

    async def test_to_no_database_is_refused(self, database_url: str) -> None:
        with pytest.raises(Refused, match="does not exist"):
            await connect(with_database(database_url, "nowhere"), purpose="test")

    async def test_to_no_server_may_come_about_later(self, database_url: str) -> None:
        async with proxied(database_url) as (proxy, url):
            proxy.refuse()
            with pytest.raises(Unavailable):
                await connect(url, purpose="test")


async def _is_zero(pg: Any, query: str) -> bool:
    return bool(await pg.fetchval(query) == 0)


class TestAFrozenServer:
    async def test_is_told_by_the_probe(self, database_url: str) -> None:
        async with proxied(database_url) as (proxy, url), connected(url, purpose="test") as connection:
            await probe(connection, timeout_s=2)
            proxy.freeze()
            with pytest.raises(Unavailable, match="did not answer in time"):
                await probe(connection, timeout_s=0.1)

    async def test_does_not_hold_up_a_close(self, database_url: str) -> None:
        async with proxied(database_url) as (proxy, url):
            connection = await connect(url, purpose="test")
            proxy.freeze()
            began = time.monotonic()
            await close(connection, timeout_s=0.1)
            assert connection.is_closed()
            assert time.monotonic() - began < 5

    async def test_does_not_hold_up_a_connect(self, database_url: str) -> None:
        async with proxied(database_url) as (proxy, url):
            proxy.freeze()
            with pytest.raises(Unavailable):
                await connect(url, purpose="test", timeout_s=0.1)


class TestThePool:
    async def test_keeps_no_statements_that_a_changed_table_would_break(
        self, database_url: str, pg: Any
    ) -> None:
        pool = await create_pool(database_url)
        try:
            async with pool.acquire() as connection:
                await connection.fetch("SELECT * FROM vendors")
                await pg.execute("ALTER TABLE vendors ADD COLUMN color text")
                async with connection.transaction():
                    assert await connection.fetch("SELECT * FROM vendors") == []
        finally:
            await pool.close()

    async def test_opens_no_connection_before_it_is_used(self, database_url: str) -> None:
        pool = await create_pool(with_database(database_url, "nowhere"))
        assert pool.get_size() == 0
        await pool.close()

    async def test_tells_at_once_what_is_wrong_where_it_shall_open_some(self, database_url: str) -> None:
        with pytest.raises(Refused, match="does not exist"):
            await create_pool(with_database(database_url, "nowhere"), min_size=1)

    async def test_serves_several_at_a_time(self, database_url: str) -> None:
        pool = await create_pool(database_url, max_size=2)
        try:
            sleeping = (pool.fetchval("SELECT pg_backend_pid() FROM pg_sleep(0.05)") for _ in range(2))
            assert len(set(await asyncio.gather(*sleeping))) == 2
        finally:
            await pool.close()


class TestATransaction:
    async def test_is_left_in_time_though_its_rollback_is_not_answered(self, database_url: str) -> None:
        async with proxied(database_url) as (proxy, url), connected(url, purpose="test") as connection:

            async def work() -> None:
                async with transaction(connection):
                    await connection.execute("SELECT pg_sleep(60)")

            task = asyncio.create_task(work())
            await eventually(connection.is_in_transaction)
            proxy.black_hole()
            task.cancel()
            began = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - began < 2
            assert connection.is_closed()

    async def test_that_fails_is_rolled_back_and_the_connection_lives(
        self, pg: Any, database_url: str
    ) -> None:
        async with connected(database_url, purpose="test") as connection:

            async def work() -> None:
                async with transaction(connection):
                    await connection.execute("UPDATE gateway.control SET nonce = 'lost'")
                    await connection.execute("SELECT 1 / 0")

            with pytest.raises(asyncpg.DivisionByZeroError):
                await work()
            async with transaction(connection):
                await connection.execute("UPDATE gateway.canary SET beat = 4711")
            assert await pg.fetchval("SELECT nonce IS DISTINCT FROM 'lost' FROM gateway.control")
            assert await pg.fetchval("SELECT beat FROM gateway.canary") == 4711

    async def test_that_is_brief_is_ended_by_the_server_and_leaves_no_setting(
        self, database_url: str
    ) -> None:
        async with connected(database_url, purpose="test") as connection:
            setting = "SELECT current_setting('idle_in_transaction_session_timeout')"
            async with brief_transaction(connection):
                assert await connection.fetchval(setting) == "3s"
            assert await connection.fetchval(setting) == "0"


class TestTwoConnections:
    async def test_are_closed_side_by_side(self, database_url: str) -> None:
        async with proxied(database_url) as (proxy, url):
            ends = (url, "one"), (url, "other")
            async with both_connected(*ends) as (one, other):
                assert await one.fetchval("SHOW application_name") == "inventory-gateway one"
                proxy.freeze()
                began = time.monotonic()
            assert time.monotonic() - began < 1.8
            assert one.is_closed()
            assert other.is_closed()

    async def test_do_not_leave_one_behind_without_the_other(self, database_url: str, pg: Any) -> None:
        ends = (database_url, "one"), (with_database(database_url, "nowhere"), "other")
        with pytest.raises(Refused):
            async with both_connected(*ends):
                raise AssertionError
        left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'inventory-gateway one'"
        await eventually(lambda: _is(pg, left, 0))

    async def test_are_closed_though_whoever_closes_them_is_cancelled_before_it_has_begun(
        self, database_url: str
    ) -> None:
        """As a reign is whose frozen link has ended it, in the moment in which its lock is found lost."""
        links: list[Connection] = []
        leave = asyncio.Event()

        async def hold() -> None:
            async with both_connected((database_url, "one"), (database_url, "other")) as both:
                links.extend(both)
                await leave.wait()

        holding = asyncio.create_task(hold())
        await eventually(lambda: bool(links))
        leave.set()  # its next step leaves the block; the loop cancels it in the same turn, after that step
        asyncio.get_running_loop().call_soon(holding.cancel)
        await asyncio.wait([holding])
        assert holding.cancelled()
        assert [link.is_closed() for link in links] == [True, True]


async def _is(connection: Any, query: str, value: object) -> bool:
    return bool(await connection.fetchval(query) == value)
