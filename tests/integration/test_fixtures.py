import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.support.databases import drop_database, scratch_database
from tests.support.keys import delete_keys
from tests.support.ports import free_port
from tests.support.proxy import proxied
from tests.support.servers import HasUrl, remove_leftovers, server_directory
from tests.support.waiting import eventually


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0))
    try:
        yield client
    finally:
        await client.aclose()


class TestDatabases:
    async def test_an_empty_database_is_empty(self, empty_database_url: str) -> None:
        connection = await asyncpg.connect(empty_database_url)
        try:
            assert (
                await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
            )
        finally:
            await connection.close()

    @pytest.mark.parametrize("time", ["first", "second"])
    async def test_each_test_has_a_migrated_database_of_its_own(
        self, pg: asyncpg.Connection, time: str
    ) -> None:
        assert await pg.fetchval("SELECT count(*) FROM gateway.migrations") > 0
        assert await pg.fetchval("SELECT to_regclass('public.mine')") is None
        await pg.execute("CREATE TABLE public.mine ()")

    async def test_a_scratch_database_is_dropped_even_while_somebody_is_connected(
        self, postgres_server: HasUrl
    ) -> None:
        async with scratch_database(postgres_server.url) as url:
            connection = await asyncpg.connect(url)
            try:
                assert await connection.fetchval("SELECT current_database()") == url.rpartition("/")[2]
                await drop_database(url, server_url=postgres_server.url)
                with pytest.raises(asyncpg.InvalidCatalogNameError):
                    await asyncpg.connect(url)
            finally:
                connection.terminate()


class TestRedis:
    async def test_only_the_keys_of_a_prefix_are_deleted(
        self, redis: redis.asyncio.Redis, redis_prefix: str
    ) -> None:
        mine, other = f"{redis_prefix}:1:{{b3}}:x", f"{redis_prefix[::-1]}:1:{{b3}}:x"
        await redis.set(mine, "1")
        await redis.set(other, "2")
        try:
            await delete_keys(redis, redis_prefix)
            await delete_keys(redis, redis_prefix)
            assert await redis.mget(mine, other) == [None, b"2"]
        finally:
            await redis.unlink(other)


class TestProxy:
    async def test_a_link_that_works(self, redis_url: str) -> None:
        async with proxied(redis_url) as (proxy, url), client_of(url) as client:
            assert await client.ping()
            assert (proxy.connections, proxy.accepted) == (1, 1)

    async def test_a_cut_link_and_the_next_one(self, redis_url: str) -> None:
        async with proxied(redis_url) as (proxy, url), client_of(url) as client:
            assert await client.ping()
            proxy.cut()
            with pytest.raises(redis.exceptions.ConnectionError):
                await client.ping()
            assert await client.ping()
            assert proxy.accepted == 2

    async def test_nobody_gets_in_until_it_accepts_again(self, redis_url: str) -> None:
        async with proxied(redis_url) as (proxy, url), client_of(url) as client:
            assert await client.ping()
            proxy.refuse()
            for _ in range(2):
                with pytest.raises(redis.exceptions.ConnectionError):
                    await client.ping()
            proxy.accept()
            assert await client.ping()

    async def test_a_frozen_link_is_silent_and_goes_on(self, redis_url: str) -> None:
        async with proxied(redis_url) as (proxy, url), client_of(url) as client:
            assert await client.ping()
            proxy.freeze()
            answer = asyncio.ensure_future(client.echo("still there"))
            done, _ = await asyncio.wait([answer], timeout=0.1)
            assert not done
            proxy.thaw()
            assert await asyncio.wait_for(answer, 5) == b"still there"

    async def test_without_a_server_the_client_sees_its_connection_end(self) -> None:
        async with proxied(f"redis://127.0.0.1:{free_port()}/0") as (proxy, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            try:
                with contextlib.suppress(ConnectionResetError):
                    assert await asyncio.wait_for(reader.read(), 5) == b""
                assert proxy.accepted == 1
            finally:
                writer.transport.abort()

    async def test_postgres_goes_through_as_well(self, empty_database_url: str) -> None:
        async with proxied(empty_database_url) as (proxy, url):
            connection = await asyncpg.connect(url, timeout=5)
            assert await connection.fetchval("SELECT 1") == 1
            proxy.cut()
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                await connection.fetchval("SELECT 1")
            connection.terminate()


class TestLeftovers:
    def test_only_old_directories_that_nobody_uses_are_removed(self) -> None:
        with server_directory() as used, server_directory() as young:
            left = used.with_name(f"{used.name}-left")
            left.mkdir()
            for old in (used, left):
                os.utime(old, (0, 0))
            with (used / "lock").open("w") as lock:
                os.utime(used, (0, 0))
                fcntl.flock(lock, fcntl.LOCK_EX)
                remove_leftovers()
                assert [path.exists() for path in (used, young, left)] == [True, True, False]


class TestEventually:
    async def test_it_returns_the_first_true_value(self) -> None:
        values = iter([0, None, "", 7, 8])
        assert await eventually(lambda: next(values), interval_s=0) == 7

    async def test_conditions_may_be_async_and_assert(self) -> None:
        tries = iter(range(10))

        async def condition() -> bool:
            assert next(tries) == 3
            return True

        assert await eventually(condition, interval_s=0) is True

    async def test_the_last_value_is_in_the_failure(self) -> None:
        with pytest.raises(AssertionError, match=r"not within 0\.01 s; the last value was \[\]"):
            await eventually(list, timeout_s=0.01)

    async def test_a_condition_that_hangs_does_not_hang_the_test(self) -> None:
        with pytest.raises(AssertionError, match="still waiting for the condition"):
            await eventually(lambda: asyncio.sleep(60), timeout_s=0.01)


async def test_the_loop_is_the_gateways() -> None:
    loop = asyncio.get_running_loop()
    assert type(loop).__module__.startswith("uvloop")
    assert loop.get_debug()
