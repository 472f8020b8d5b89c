import asyncio
import socket
import time
from typing import Any

import asyncpg
import pytest

from listeners.errors import Refused, Unavailable
from listeners.pool import create_pool
from listeners.postgres import Connection, close, connect, connected, probe
from tests.support.databases import with_database
from tests.support.proxy import proxied


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
