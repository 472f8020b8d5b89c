import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis.asyncio
import uvloop

from listeners.embedded import PostgresServer, ValkeyServer
from tests.support.databases import build_template, create_database, drop_database, scratch_database
from tests.support.keys import delete_keys, server_client
from tests.support.servers import (
    POSTGRES_SETTINGS,
    HasUrl,
    in_own_loop,
    postgres_for_session,
    server_directory,
    valkey_for_session,
)

_MARK_OF_DIRECTORY = {
    "integration": "integration",
    "faults": "integration",
    "budgets": "integration",
    "acceptance": "acceptance",
    "browser": "browser",
}


def pytest_configure(config: pytest.Config) -> None:
    if config.option.asyncio_debug is None:
        config.option.asyncio_debug = True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    root = Path(__file__).parent
    for item in items:
        mark = _MARK_OF_DIRECTORY.get(item.path.relative_to(root).parts[0])
        if mark is not None:
            item.add_marker(mark)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The tests run on the loop that the gateway runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[HasUrl]:
    """Postgres for the whole session: an embedded one, or the user's own at GATEWAY_TEST_DATABASE_URL."""
    with postgres_for_session() as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[HasUrl]:
    """Valkey for the whole session: an embedded one, or the user's own at GATEWAY_TEST_REDIS_URL."""
    with valkey_for_session() as server:
        yield server


@pytest.fixture
async def private_postgres() -> AsyncIterator[PostgresServer]:
    """A Postgres of the test's own, for tests that kill, pause and restart it. Costs more than a second."""
    with server_directory() as directory:
        server = PostgresServer(directory, settings=POSTGRES_SETTINGS)
        await server.start()
        try:
            yield server
        finally:
            await server.stop()


@pytest.fixture
async def private_valkey() -> AsyncIterator[ValkeyServer]:
    """A Valkey of the test's own, for tests that kill, pause and restart it."""
    with server_directory() as directory:
        server = ValkeyServer(directory)
        await server.start()
        try:
            yield server
        finally:
            await server.stop()


@pytest.fixture(scope="session")
def template_database(postgres_server: HasUrl) -> Iterator[str]:
    """The name of a database with all migrations, made once per session and worker."""

    async def build() -> str:
        url = await create_database(postgres_server.url, prefix="template")
        await build_template(url)
        return url

    url = in_own_loop(build())
    yield urlsplit(url).path.lstrip("/")
    in_own_loop(drop_database(url, server_url=postgres_server.url))


@pytest.fixture
async def empty_database_url(postgres_server: HasUrl) -> AsyncIterator[str]:
    """A fresh database with nothing in it, dropped afterwards."""
    async with scratch_database(postgres_server.url) as url:
        yield url


@pytest.fixture
async def database_url(postgres_server: HasUrl, template_database: str) -> AsyncIterator[str]:
    """A fresh database with all migrations applied, dropped afterwards."""
    async with scratch_database(postgres_server.url, template=template_database) as url:
        yield url


@pytest.fixture
async def pg(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to `database_url`."""
    connection = await asyncpg.connect(database_url)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
def redis_url(valkey_server: HasUrl) -> str:
    return valkey_server.url


@pytest.fixture
async def redis_prefix(redis_url: str) -> AsyncIterator[str]:
    """What the test's keys and channels begin with; keys that contain it are deleted afterwards."""
    prefix = f"t{secrets.token_hex(6)}"
    yield prefix
    async with server_client(redis_url) as client:
        await delete_keys(client, prefix)


@pytest.fixture(name="redis")
async def redis_client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    async with server_client(redis_url) as client:
        yield client
