"""The checks behind `serve`'s start, against real servers that refuse, are late or are the wrong ones."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from structlog.testing import capture_logs

from gateway.config import Settings
from gateway.startup import StartRefused, Startup, check_listener
from listeners.errors import Refused, Unavailable
from tests.support.ports import free_port
from tests.support.proxy import proxied
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration


def settings(database_url: str, redis_url: str, **more: Any) -> Settings:
    given: dict[str, Any] = {"database_url": database_url, "redis_url": redis_url, **more}
    return Settings(**given)


async def test_both_are_there(database_url: str, redis_url: str) -> None:
    async with asyncio.timeout(10):
        await Startup(
            settings(database_url, redis_url, listener_database_url=f"{database_url}?application_name=x")
        ).wait()


async def test_migrations_are_pending(empty_database_url: str, redis_url: str) -> None:
    with pytest.raises(StartRefused, match=r"migrations are pending .*: run `inventory-gateway migrate`"):
        await Startup(settings(empty_database_url, redis_url)).wait()


async def test_a_database_that_does_not_exist(database_url: str, redis_url: str) -> None:
    with pytest.raises(StartRefused, match=r"GATEWAY_DATABASE_URL: .* refuses: "):
        await Startup(settings(f"{database_url}_none", redis_url)).wait()


async def test_a_redis_that_wants_a_password_we_do_not_have(database_url: str, private_valkey: Any) -> None:
    import redis.asyncio

    client = redis.asyncio.Redis.from_url(private_valkey.url, protocol=2)
    await client.config_set("requirepass", "s3cret")
    await client.aclose()
    with pytest.raises(StartRefused, match="GATEWAY_REDIS_URL: Redis refuses: "):
        await Startup(settings(database_url, private_valkey.url)).wait()


async def test_a_role_that_may_not_see_our_schema(database_url: str, redis_url: str, pg: Any) -> None:
    role = f"role_{urlsplit(database_url).path[-8:]}"
    await pg.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    parts = urlsplit(database_url)
    url = parts._replace(netloc=f"{role}:x@{parts.hostname}:{parts.port}").geturl()
    try:
        with pytest.raises(StartRefused, match="permission denied"):
            await Startup(settings(url, redis_url)).wait()
    finally:
        await pg.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_servers_that_come_late(database_url: str, redis_url: str) -> None:
    async with proxied(database_url) as (postgres, postgres_url), proxied(redis_url) as (valkey, valkey_url):
        postgres.refuse()
        valkey.refuse()
        startup = Startup(settings(postgres_url, valkey_url, probe_timeout_ms=500))
        with capture_logs() as lines:
            async with asyncio.timeout(20), asyncio.TaskGroup() as group:
                waiting = group.create_task(startup.wait())
                await eventually(
                    lambda: (
                        {line["setting"] for line in lines} >= {"GATEWAY_DATABASE_URL", "GATEWAY_REDIS_URL"}
                    )
                )
                assert not waiting.done()
                assert len(startup.not_ready()) == 2
                postgres.accept()
                valkey.accept()
                await waiting


async def test_a_port_where_nobody_listens(redis_url: str) -> None:
    startup = Startup(settings(f"postgresql://u:s3cret@127.0.0.1:{free_port()}/d", redis_url))
    with capture_logs() as lines:
        task = asyncio.ensure_future(startup.wait())
        await eventually(lambda: len(lines) >= 2)
        task.cancel()
        await asyncio.wait([task])
    assert "s3cret" not in str(lines)


async def test_a_listener_that_refuses(database_url: str) -> None:
    await check_listener(database_url, timeout_s=5)
    with pytest.raises(Refused):
        await check_listener(f"{database_url}_none", timeout_s=5)


async def test_a_standby_is_waited_for(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Standby:
        async def fetchval(self, _: str) -> bool:
            return True

    @asynccontextmanager
    async def connected(*_: object, **__: object) -> AsyncIterator[Standby]:
        yield Standby()

    monkeypatch.setattr("gateway.startup.connected", connected)
    with pytest.raises(Unavailable, match="standby"):
        await check_listener(database_url, timeout_s=5)


async def test_the_database_is_not_touched(database_url: str, redis_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    query = "SELECT (SELECT count(*) FROM gateway.change_log), (SELECT term FROM gateway.position)"
    before = await connection.fetchrow(query)
    await Startup(settings(database_url, redis_url)).wait()
    assert await connection.fetchrow(query) == before
    await connection.close()
