"""Roles with no more rights than they need: one that serves, and one that writes the reference shop.

Both are group roles without a login, for an operator to grant to logins. What a role was granted is kept
where Postgres keeps it: who may move the relay's position serves, and has to see every attached table.
"""

from typing import Any, Final

import asyncpg

from listeners.errors import MigrationError, Refused
from listeners.retention import LEAVES
from listeners.source_sql import quote_identifier, table_name
from listeners.sources import Source
from listeners.sql import queries

__all__ = ["check_rows_visible", "excess", "forget_table", "make_roles", "renew_grants", "show_table"]

_SQL: Final = queries("roles")
_LEAVES: Final = ", ".join(f"gateway.change_log_{number}" for number in range(LEAVES))


async def make_roles(conn: Any, prefix: str, *, shop: bool) -> list[str]:
    """Makes `<prefix>_service` and, for the reference shop, `<prefix>_shop` where they are missing.

    They are granted what they need, apart from the attached tables (renew_grants). Returns the names of those
    that are new. Raises MigrationError.
    """
    service, writer = f"{prefix}_service", f"{prefix}_shop"
    wanted = [service, writer] if shop else [service]
    missing = [name for name in wanted if not await conn.fetchval(_SQL["role_exists"], name)]
    for name in missing:
        await _create(conn, name, missing)
    await conn.execute(_SQL["grant_service"].format(role=quote_identifier(service), leaves=_LEAVES))
    if shop:
        await _let_in(conn, writer, "public")
        await conn.execute(_SQL["grant_shop"].format(role=quote_identifier(writer)))
    return missing


async def renew_grants(conn: Any, sources: list[Source]) -> None:
    """Whoever serves may do what this release needs, and see all of `sources`."""
    for role in await _service_roles(conn):
        await conn.execute(_SQL["grant_service"].format(role=quote_identifier(role), leaves=_LEAVES))
    for source in sources:
        await show_table(conn, source)


async def show_table(conn: Any, source: Source) -> None:
    """Whoever serves may read the source's table, whose owner we are."""
    for role in await _service_roles(conn):
        await _let_in(conn, role, source.schema_name)
        await conn.execute(_SQL["show_table"].format(table=table_name(source), role=quote_identifier(role)))


async def forget_table(conn: Any, source: Source) -> None:
    """Undoes show_table."""
    for role in await _service_roles(conn):
        await conn.execute(_SQL["forget_table"].format(table=table_name(source), role=quote_identifier(role)))


async def check_rows_visible(conn: Any) -> None:
    """Raises Refused for a role that row security would show less than all rows of an attached table."""
    hidden = [row["name"] for row in await conn.fetch(_SQL["hidden"])]
    if hidden:
        raise Refused(
            f"row security hides rows of {', '.join(hidden)} from this role: "
            "CREATE POLICY ... FOR SELECT TO it USING (true)"
        )


async def excess(conn: Any) -> list[str]:
    """What the connection's role may do and serving does not need, in words."""
    return [row["what"] for row in await conn.fetch(_SQL["excess"])]


async def _service_roles(conn: Any) -> list[str]:
    return [row["name"] for row in await conn.fetch(_SQL["service_roles"])]


async def _create(conn: Any, name: str, missing: list[str]) -> None:
    try:
        await conn.execute(f"CREATE ROLE {quote_identifier(name)} NOLOGIN")
    except (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
        return  # by somebody else, for another database of this server
    except asyncpg.InsufficientPrivilegeError as error:
        statements = " ".join(f"CREATE ROLE {quote_identifier(role)} NOLOGIN;" for role in missing)
        raise MigrationError(
            f"the role {name} does not exist and this one may not create it (CREATEROLE): "
            f"let somebody who may run `{statements}`, then try again"
        ) from error


async def _let_in(conn: Any, role: str, schema: str) -> None:
    """Most may look into most schemas already, and whose schema it is may be somebody else."""
    if not await conn.fetchval(_SQL["sees_schema"], role, schema):
        await conn.execute(f"GRANT USAGE ON SCHEMA {quote_identifier(schema)} TO {quote_identifier(role)}")
