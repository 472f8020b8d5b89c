"""Separate duties: whoever serves can write no stock, and whoever sells sees nothing of ours."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest

from gateway.startup import check_database
from listeners.attach import attach, detach
from listeners.doctor_postgres import examine_postgres
from listeners.errors import MigrationError, Refused
from listeners.findings import Finding, Grade
from listeners.migrations import migrate
from listeners.retention import clear_leaf
from listeners.sources import default_sources
from tests.support.gateway import running_gateway
from tests.support.logins import Logins, separated
from tests.support.waiting import eventually
from tests.support.watcher import watching

SHOP = """
    INSERT INTO vendors (vendor_id, name) VALUES ('V1', 'Vendor');
    INSERT INTO locations (location_id, vendor_id, name) VALUES ('L1', 'V1', 'Main street');
    INSERT INTO products (product_id, vendor_id, sku, name, price_minor, status)
        VALUES ('P1', 'V1', 'S1', 'Product', 100, 'published');
    INSERT INTO inventory (product_id, location_id, vendor_id, on_hand) VALUES ('P1', 'L1', 'V1', 10);
"""


@asynccontextmanager
async def session(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def run(url: str, sql: str) -> Any:
    async with session(url) as connection:
        return await connection.fetchval(sql)


async def grant(admin_url: str, logins: Logins) -> None:
    """What is left for the operator to do."""
    async with session(admin_url) as admin:
        await admin.execute(
            f"GRANT {logins.prefix}_service TO {logins.prefix}_gateway;"
            f"GRANT {logins.prefix}_shop TO {logins.prefix}_till"
        )


@pytest.fixture
async def logins(empty_database_url: str) -> AsyncIterator[Logins]:
    async with separated(empty_database_url) as logins:
        await migrate(logins.owner, roles=logins.prefix)
        await grant(empty_database_url, logins)
        yield logins


def rights(findings: list[Finding]) -> Finding:
    (finding,) = [finding for finding in findings if finding.subject == "rights"]
    return finding


class TestMaking:
    async def test_says_what_is_new_and_does_it_once(self, empty_database_url: str) -> None:
        async with separated(empty_database_url) as logins:
            applied = await migrate(logins.owner, roles=logins.prefix)
            assert applied[-2:] == [f"role {logins.prefix}_service", f"role {logins.prefix}_shop"]
            assert await migrate(logins.owner, roles=logins.prefix) == []
            assert not await run(
                empty_database_url,
                f"SELECT bool_or(rolcanlogin) FROM pg_roles WHERE rolname IN"
                f" ('{logins.prefix}_service', '{logins.prefix}_shop')",
            )

    async def test_without_the_reference_shop_nobody_is_let_into_it(self, empty_database_url: str) -> None:
        async with separated(empty_database_url) as logins:
            applied = await migrate(logins.owner, shop=False, roles=logins.prefix)
            assert applied[-1] == f"role {logins.prefix}_service"

    async def test_one_who_may_not_create_roles_is_told_what_to_run(self, empty_database_url: str) -> None:
        async with separated(empty_database_url, owner_options="NOCREATEROLE") as logins:
            with pytest.raises(MigrationError, match="CREATEROLE") as caught:
                await migrate(logins.owner, roles=logins.prefix)
            message = str(caught.value)
            statements = message.partition("`")[2].partition("`")[0]
            assert statements.count("CREATE ROLE") == 2
            async with session(empty_database_url) as admin:
                await admin.execute(statements)
            assert await migrate(logins.owner, roles=logins.prefix) == []
            await grant(empty_database_url, logins)
            assert rights(await examine_postgres(logins.gateway, timeout_s=5)).grade is Grade.OK

    async def test_a_later_migrate_grants_what_is_missing(
        self, empty_database_url: str, logins: Logins
    ) -> None:
        await run(empty_database_url, f"REVOKE SELECT ON gateway.canary FROM {logins.prefix}_service")
        finding = rights(await examine_postgres(logins.gateway, timeout_s=5))
        assert (finding.grade, finding.found) == (
            Grade.FAILURE,
            "this role lacks SELECT on gateway.canary",
        )
        assert await migrate(logins.owner) == []
        assert rights(await examine_postgres(logins.gateway, timeout_s=5)).grade is Grade.OK


class TestServing:
    async def test_the_whole_way(self, logins: Logins, redis_url: str, redis_prefix: str) -> None:
        async with session(logins.till) as till:
            await till.execute(SHOP)
            async with running_gateway(logins.gateway, redis_url, redis_prefix, verify_s=1) as gateway:
                await eventually(gateway.is_ready, timeout_s=15)
                async with watching(gateway.url, ["location:L1", "product:P1"]) as client:
                    await eventually(lambda: client.is_complete("location:L1"))
                    await till.execute("UPDATE inventory SET on_hand = 7 WHERE product_id = 'P1'")
                    await eventually(
                        lambda: client.copies["location:L1"].items["stock:P1:L1"]["on_hand"] == 7
                    )
                    await till.execute("DELETE FROM inventory")  # a new epoch needs all of the relay's rights
                    async with session(logins.owner) as owner:
                        await owner.execute("TRUNCATE inventory")
                    await eventually(
                        lambda: "stock:P1:L1" not in client.copies["location:L1"].items, timeout_s=10
                    )
                async with httpx.AsyncClient(base_url=gateway.http_url, trust_env=False) as http:
                    assert (await http.get("/v1/products/P1")).status_code == 200
                async with httpx.AsyncClient(base_url=gateway.ops_url, trust_env=False) as http:

                    async def verified() -> bool:
                        text = (await http.get("/metrics")).text
                        return "gateway_relay_active 1.0" in text.splitlines()

                    await eventually(verified)

    async def test_old_leaves_of_the_log_are_emptied(self, logins: Logins) -> None:
        await run(logins.till, "INSERT INTO vendors (vendor_id, name) VALUES ('V1', 'Vendor')")
        await run(logins.till, "INSERT INTO locations VALUES ('L1', 'V1', 'Main street')")
        async with session(logins.gateway) as connection:
            leaf = await connection.fetchval("SELECT tableoid::regclass::text FROM gateway.change_log")
            position = await connection.fetchval("SELECT pg_current_snapshot()::text")
            assert await clear_leaf(connection, leaf.removeprefix("gateway."), position)
            assert await connection.fetchval("SELECT count(*) FROM gateway.change_log") == 0

    async def test_a_table_attached_later_is_seen_and_one_detached_is_not(self, logins: Logins) -> None:
        (source,) = [source for source in default_sources() if source.name == "inventory"]
        async with session(logins.owner) as owner:
            await detach(owner, "inventory")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await run(logins.gateway, "SELECT count(*) FROM inventory")
            await owner.execute("CREATE SCHEMA hidden; ALTER TABLE inventory SET SCHEMA hidden")
            await attach(owner, source.model_copy(update={"schema_name": "hidden"}))
        assert await run(logins.gateway, "SELECT count(*) FROM hidden.inventory") == 0


class TestRefused:
    @pytest.mark.parametrize(
        "sql",
        [
            "UPDATE inventory SET on_hand = 0",
            "INSERT INTO vendors (vendor_id, name) VALUES ('V2', 'x')",
            "DELETE FROM products",
            "TRUNCATE inventory",
            "ALTER TABLE inventory ADD COLUMN x int",
            "DROP TRIGGER gateway_log_update ON inventory",
            "CREATE TABLE public.mine (id int)",
            "CREATE TABLE gateway.mine (id int)",
            "CREATE SCHEMA mine",
            "DROP TABLE gateway.canary",
            "INSERT INTO gateway.change_log (source, op) VALUES ('inventory', 'D')",
            "UPDATE gateway.control SET notify = 'off'",
            "DELETE FROM gateway.sources",
            "SELECT nextval('gateway.version_seq')",
            "INSERT INTO gateway.migrations VALUES ('gateway', 99, 'x', 'x')",
        ],
    )
    async def test_whoever_serves(self, logins: Logins, sql: str) -> None:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await run(logins.gateway, sql)

    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT * FROM gateway.change_log",
            "UPDATE gateway.position SET term = 0",
            "ALTER TABLE inventory DISABLE TRIGGER gateway_log_update",
            "TRUNCATE inventory",
        ],
    )
    async def test_whoever_sells(self, logins: Logins, sql: str) -> None:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await run(logins.till, sql)

    async def test_whoever_has_no_role(self, logins: Logins) -> None:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await run(logins.stranger, "SELECT * FROM inventory")
        with pytest.raises(Refused, match="permission denied"):
            await check_database(logins.stranger, timeout_s=5)


class TestDoctor:
    async def test_no_more_than_needed(self, logins: Logins) -> None:
        finding = rights(await examine_postgres(logins.gateway, timeout_s=5))
        assert (finding.grade, finding.found) == (
            Grade.OK,
            "this role may do all that serving needs, and no more",
        )

    async def test_the_owner_can_do_more(self, logins: Logins) -> None:
        finding = rights(await examine_postgres(logins.owner, timeout_s=5))
        assert finding.grade is Grade.WARNING
        for what in (
            "may create roles",
            "may create schemas",
            "owns the schema gateway",
            "may write inventory",
        ):
            assert what in finding.found
        assert "and 1 more" in finding.found
        assert "migrate --roles" in finding.advice

    async def test_a_superuser_can_do_everything(self, logins: Logins, empty_database_url: str) -> None:
        finding = rights(await examine_postgres(empty_database_url, timeout_s=5))
        assert (finding.grade, finding.found) == (
            Grade.WARNING,
            "this role can do more than serving needs: it is a superuser",
        )

    async def test_row_security_that_hides_rows_is_refused(
        self, logins: Logins, empty_database_url: str
    ) -> None:
        """Loads would miss them, and what compares copies with Postgres reads as the same role."""
        await run(logins.owner, "ALTER TABLE inventory ENABLE ROW LEVEL SECURITY")
        finding = rights(await examine_postgres(logins.gateway, timeout_s=5))
        assert finding.grade is Grade.FAILURE
        assert "row security hides rows of inventory" in finding.found
        with pytest.raises(Refused, match="row security hides rows of inventory"):
            await check_database(logins.gateway, timeout_s=5)
        await run(empty_database_url, f"ALTER ROLE {logins.prefix}_gateway BYPASSRLS")
        await asyncio.wait_for(check_database(logins.gateway, timeout_s=5), 10)
        finding = rights(await examine_postgres(logins.gateway, timeout_s=5))
        assert "passes row security by" in finding.found
