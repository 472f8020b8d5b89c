import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg

__all__ = ["build_template", "create_database", "drop_database", "scratch_database", "with_database"]


def with_database(url: str, database: str) -> str:
    """The URL of another database of the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


async def create_database(server_url: str, *, template: str = "template1", prefix: str = "t") -> str:
    """A new database on the server; returns its URL. Nobody may be connected to the template."""
    name = f"{prefix}_{secrets.token_hex(8)}"
    connection = await asyncpg.connect(server_url)
    try:
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    finally:
        await connection.close()
    return with_database(server_url, name)


async def drop_database(url: str, *, server_url: str) -> None:
    """Drop it, whoever is still connected."""
    name = urlsplit(url).path.lstrip("/")
    connection = await asyncpg.connect(server_url)
    try:
        await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    finally:
        await connection.close()


@asynccontextmanager
async def scratch_database(server_url: str, *, template: str = "template1") -> AsyncIterator[str]:
    url = await create_database(server_url, template=template)
    try:
        yield url
    finally:
        await drop_database(url, server_url=server_url)


async def build_template(dsn: str) -> None:
    """Apply all migrations to an empty database, which is cloned for each test afterwards."""
    from listeners.migrations import migrate

    await migrate(dsn)
