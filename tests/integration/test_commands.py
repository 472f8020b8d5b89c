"""PROTOCOL.md section 4: the commands that talk to Postgres and Redis once and end."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from listeners.keys import Keys
from listeners.redis_client import connect_redis
from listeners.topic_store import TopicStore
from tests.support.commands import CommandRunner
from tests.support.ports import free_port

pytestmark = pytest.mark.integration

Make = Callable[..., CommandRunner]

SOURCE = """
[[source]]
name = "bikes"
kind = "product"
table = "bikes"

[source.columns]
product_id = "code"
vendor_id = { value = "V" }
name = "title"
"""


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Make:
    return lambda **settings: CommandRunner(monkeypatch, capsys, **settings)


@pytest.fixture
def command(make: Make, database_url: str, redis_url: str, redis_prefix: str) -> CommandRunner:
    return make(database_url=database_url, redis_url=redis_url, redis_prefix=redis_prefix)


@pytest.fixture
async def empty_role(database_url: str) -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    """Makes a role that may only what it is granted, and gives a URL of it."""
    role = f"r{secrets.token_hex(6)}"
    parts = urlsplit(database_url)

    async def make_role(grant: str) -> str:
        await scalar(database_url, f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
        await scalar(database_url, grant.format(role=role))
        return urlunsplit(parts._replace(netloc=f"{role}:x@{parts.hostname}:{parts.port}"))

    yield make_role
    await scalar(database_url, f"DROP OWNED BY {role}; DROP ROLE {role}")


async def scalar(url: str, query: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return (
            await connection.fetchval(query)
            if query.startswith("SELECT")
            else await connection.execute(query)
        )
    finally:
        await connection.close()


class TestMigrate:
    async def test_from_nothing(self, make: Make, empty_database_url: str) -> None:
        command = make(database_url=empty_database_url)
        check = await command("migrate", "--check")
        assert check.code == 1
        assert "pending: gateway/0001" in check.out
        assert check.err == "run `inventory-gateway migrate`\n"
        applied = await command("migrate")
        assert applied.code == 0
        assert "applied: gateway/0001" in applied.out
        assert "applied: shop/0001" in applied.out
        assert (await command("migrate", "--check")).out == "up to date\n"
        assert (await command("migrate")).out == "up to date\n"

    async def test_without_the_reference_schema(self, make: Make, empty_database_url: str) -> None:
        command = make(database_url=empty_database_url)
        assert "shop/" not in (await command("migrate", "--no-shop")).out
        assert await scalar(empty_database_url, "SELECT to_regclass('public.products')") is None
        assert (await command("migrate", "--check")).code == 0
        assert "nothing is attached" in (await command("sources")).out

    async def test_notify_is_kept_in_the_database(self, command: CommandRunner, database_url: str) -> None:
        assert (await command("migrate", "--notify", "off")).code == 0
        assert await scalar(database_url, "SELECT notify FROM gateway.control") == "off"

    async def test_a_changed_migration_is_refused(self, command: CommandRunner, database_url: str) -> None:
        await scalar(database_url, "UPDATE gateway.migrations SET checksum = 'x' WHERE set = 'gateway'")
        for arguments in (["migrate"], ["migrate", "--check"]):
            outcome = await command(*arguments)
            assert outcome.code == 1
            assert "was changed after it had been applied" in outcome.line

    async def test_it_uses_the_direct_connection(self, make: Make, database_url: str) -> None:
        command = make(database_url="postgresql://127.0.0.1:1/pooler", listener_database_url=database_url)
        assert (await command("migrate", "--check")).code == 0


class TestServersThatAreAway:
    @pytest.mark.parametrize(
        "arguments", [["migrate"], ["migrate", "--check"], ["sources"], ["resync"], ["detach", "x"]]
    )
    async def test_the_command_ends_at_once(self, make: Make, arguments: list[str]) -> None:
        command = make(database_url=f"postgresql://u:s3cret@127.0.0.1:{free_port()}/none")
        outcome = await command(*arguments)
        assert outcome.code == 1
        assert outcome.line.startswith("Postgres at postgresql://u:***@127.0.0.1:")
        assert "s3cret" not in outcome.err

    async def test_a_redis_that_is_away(self, make: Make, database_url: str) -> None:
        command = make(database_url=database_url, redis_url=f"redis://:s3cret@127.0.0.1:{free_port()}/0")
        outcome = await command("resync", "product:A")
        assert outcome.code == 1
        assert outcome.line.startswith("Redis can not be reached")
        assert "s3cret" not in outcome.err

    async def test_a_database_that_does_not_exist(self, make: Make, postgres_server: Any) -> None:
        command = make(database_url=f"{postgres_server.url}_none")
        outcome = await command("sources")
        assert outcome.code == 1
        assert "refuses" in outcome.line

    async def test_a_database_that_is_not_migrated(self, make: Make, empty_database_url: str) -> None:
        command = make(database_url=empty_database_url)
        for arguments in (["sources"], ["resync"]):
            outcome = await command(*arguments)
            assert outcome.code == 1
            assert "run `migrate`" in outcome.line


class TestAttach:
    @pytest.fixture
    def file(self, tmp_path: Path) -> str:
        path = tmp_path / "bikes.toml"
        path.write_text(SOURCE)
        return str(path)

    async def test_there_and_back(self, command: CommandRunner, database_url: str, file: str) -> None:
        await scalar(database_url, "CREATE TABLE public.bikes (code text PRIMARY KEY, title text)")
        attached = await command("attach", file)
        assert attached.code == 0, attached.err
        assert attached.out.startswith('attached: bikes (product) "public"."bikes" -> ')
        assert 'bikes  product  "public"."bikes"' in (await command("sources")).out
        assert (await command("detach", "bikes")).out == "detached: bikes\n"
        assert "bikes" not in (await command("sources")).out

    async def test_a_table_that_can_not_be_attached(self, command: CommandRunner, file: str) -> None:
        outcome = await command("attach", file)
        assert outcome.code == 1
        assert "does not exist" in outcome.line

    async def test_a_source_that_is_not_attached(self, command: CommandRunner) -> None:
        outcome = await command("detach", "nothing")
        assert outcome.code == 1
        assert "is not attached" in outcome.line

    async def test_a_table_that_is_gone(self, command: CommandRunner, database_url: str, file: str) -> None:
        await scalar(database_url, "CREATE TABLE public.bikes (code text PRIMARY KEY, title text)")
        await command("attach", file)
        await scalar(database_url, "DROP TABLE public.bikes")
        assert "the table is gone" in (await command("sources")).out


class TestResync:
    async def test_everything_is_a_new_generation(self, command: CommandRunner, database_url: str) -> None:
        before = await scalar(database_url, "SELECT nonce FROM gateway.control")
        assert (await command("resync")).code == 0
        assert await scalar(database_url, "SELECT nonce FROM gateway.control") != before

    async def test_one_topic_needs_a_relay(self, command: CommandRunner) -> None:
        outcome = await command("resync", "product:A")
        assert outcome.code == 1
        assert "no relay is active" in outcome.line

    async def test_one_topic_is_void(self, command: CommandRunner, redis_url: str, redis_prefix: str) -> None:
        client = connect_redis(redis_url)
        try:
            store = TopicStore(client, Keys(redis_prefix))
            await store.begin("generation", 1)
            opened = await store.open("product:A")
            await store.ready("product:A", opened.epoch)  # type: ignore[union-attr]  # nobody has loaded it before
            assert await store.read("product:A") is not None
            outcome = await command("resync", "product:A")
            assert outcome.code == 0, outcome.err
            assert await store.read("product:A") is None
        finally:
            await client.aclose()


class TestDoctor:
    async def test_a_healthy_gateway(self, command: CommandRunner) -> None:
        outcome = await command("doctor")
        assert outcome.code == 0, outcome.out
        for subject in (
            "settings",
            "Postgres",
            "migrations",
            "source inventory",
            "listener",
            "Redis",
        ):
            assert f"ok       {subject}: " in outcome.out, subject
        # The tests' own login is a superuser.
        assert "warning  rights: this role can do more than serving needs: it is a superuser" in outcome.out
        # Nothing serves in this test.
        assert "warning  relay: none has ever run here\n         -> start `serve` or `relay`" in outcome.out

    async def test_servers_that_are_away(self, make: Make) -> None:
        port = free_port()
        command = make(
            database_url=f"postgresql://u:s3cret@127.0.0.1:{port}/none", redis_url=f"redis://127.0.0.1:{port}"
        )
        outcome = await command("doctor")
        assert outcome.code == 1
        assert [line.split(": ")[0] for line in outcome.out.splitlines() if line.startswith("failure")] == [
            "failure  Postgres",
            "failure  listener",
            "failure  Redis",
        ]
        assert "s3cret" not in outcome.out

    async def test_migrations_are_missing(self, make: Make, empty_database_url: str, redis_url: str) -> None:
        outcome = await make(database_url=empty_database_url, redis_url=redis_url)("doctor")
        assert outcome.code == 1
        assert "failure  migrations: pending: " in outcome.out
        assert "-> run `inventory-gateway migrate`" in outcome.out

    @pytest.mark.parametrize(
        ("damage", "found"),
        [
            (
                "ALTER TABLE inventory DISABLE TRIGGER gateway_log_update",
                "disabled triggers: gateway_log_update",
            ),
            ("DROP TRIGGER gateway_log_delete ON inventory", "lacks the triggers gateway_log_delete"),
            (
                (
                    'CREATE TRIGGER "~zz" BEFORE UPDATE ON inventory FOR EACH ROW '
                    "EXECUTE FUNCTION suppress_redundant_updates_trigger()"
                ),
                "the trigger ~zz fires after ours",
            ),
        ],
    )
    async def test_triggers(self, command: CommandRunner, database_url: str, damage: str, found: str) -> None:
        await scalar(database_url, damage)
        outcome = await command("doctor")
        assert outcome.code == 1
        assert 'failure  source inventory: "public"."inventory": ' in outcome.out
        assert found in outcome.out

    async def test_tables_that_are_gone_or_were_never_attached(
        self, command: CommandRunner, database_url: str
    ) -> None:
        await scalar(database_url, "DROP TABLE inventory CASCADE")
        outcome = await command("doctor")
        assert "failure  source inventory: its table is gone" in outcome.out
        await scalar(database_url, "UPDATE gateway.control SET shop = false")
        await scalar(database_url, "DELETE FROM gateway.sources")
        assert "warning  sources: no table is attached" in (await command("doctor")).out

    async def test_a_role_without_rights(
        self, make: Make, database_url: str, redis_url: str, empty_role: Callable[[str], Awaitable[str]]
    ) -> None:
        url = await empty_role("GRANT USAGE ON SCHEMA gateway TO {role}")
        await scalar(
            database_url, "GRANT SELECT ON gateway.control, gateway.migrations, gateway.sources TO public"
        )
        outcome = await make(database_url=url, redis_url=redis_url)("doctor")
        assert outcome.code == 1
        assert "failure  rights: this role lacks " in outcome.out, outcome.out
        assert "SELECT on gateway.change_log" in outcome.out

    async def test_the_relay_was_not_seen_for_long(self, command: CommandRunner, database_url: str) -> None:
        await scalar(
            database_url,
            "WITH p AS (UPDATE gateway.position SET term = 3) "
            "UPDATE gateway.control SET relay_seen_at = now() - interval '5 minutes'",
        )
        assert "warning  relay: last seen 300 s ago" in (await command("doctor")).out
        await scalar(database_url, "UPDATE gateway.control SET relay_seen_at = now()")
        assert "ok       relay: seen 0 s ago" in (await command("doctor")).out
