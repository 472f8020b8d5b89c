"""Logins of an operator who separates duties: one owns, one serves, one sells."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import asyncpg

__all__ = ["Logins", "as_login", "separated"]


class Logins(NamedTuple):
    """URLs of one database. `prefix` is what the names of its group roles begin with."""

    prefix: str
    owner: str
    gateway: str
    till: str
    stranger: str


def as_login(url: str, login: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{login}@{parts.netloc.rpartition('@')[2]}"))


@asynccontextmanager
async def separated(empty_database_url: str, *, owner_options: str = "CREATEROLE") -> AsyncIterator[Logins]:
    """The owner may create schemas and, unless told otherwise, roles; the others have no rights yet."""
    prefix = f"r{secrets.token_hex(5)}"
    names = [f"{prefix}_{what}" for what in ("owner", "gateway", "till", "stranger")]
    groups = [f"{prefix}_service", f"{prefix}_shop"]
    database = urlsplit(empty_database_url).path.lstrip("/")
    admin = await asyncpg.connect(empty_database_url)
    try:
        await admin.execute("".join(f"CREATE ROLE {name} LOGIN;" for name in names))
        await admin.execute(
            f"ALTER ROLE {names[0]} {owner_options};"
            f'GRANT CREATE ON DATABASE "{database}" TO {names[0]};'
            f"GRANT CREATE ON SCHEMA public TO {names[0]}"
        )
        yield Logins(prefix, *(as_login(empty_database_url, name) for name in names))
    finally:
        for name in (*groups, *names):
            if await admin.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", name):
                await admin.execute(f"DROP OWNED BY {name} CASCADE")
        for name in (*groups, *names):
            await admin.execute(f"DROP ROLE IF EXISTS {name}")
        await admin.close()
