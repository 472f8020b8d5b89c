import asyncpg
import pytest

from listeners.errors import MigrationError
from listeners.roles import make_roles


class Session:
    """A connection of a role that sees no other role, and whose `CREATE ROLE` ends as told."""

    def __init__(self, ends: Exception) -> None:
        self._ends = ends
        self.said: list[str] = []

    async def fetchval(self, *_: object) -> bool:
        return False

    async def execute(self, sql: str) -> None:
        self.said.append(sql)
        if sql.startswith("CREATE ROLE"):
            raise self._ends


@pytest.mark.parametrize("ends", [asyncpg.DuplicateObjectError("there"), asyncpg.UniqueViolationError("now")])
async def test_a_role_that_another_database_of_the_server_makes_at_the_same_time(ends: Exception) -> None:
    session = Session(ends)
    await make_roles(session, "shop7", shop=False)
    assert 'GRANT USAGE ON SCHEMA gateway TO "shop7_service"' in session.said[-1]


async def test_whoever_may_not_create_them_is_told_all_of_them() -> None:
    with pytest.raises(
        MigrationError, match='CREATE ROLE "a_service" NOLOGIN; CREATE ROLE "a_shop" NOLOGIN;'
    ):
        await make_roles(Session(asyncpg.InsufficientPrivilegeError("no")), "a", shop=True)
