import asyncio
import secrets
from typing import Any

import asyncpg
import pytest

from listeners.attach import AttachRefused, attach, attached, detach
from listeners.backoff import Backoff
from listeners.errors import SourceError
from listeners.migrations import migrate
from listeners.sources import Source, default_sources
from tests.support.capture import fill_shop, logged, session

THINGS: dict[str, Any] = {
    "name": "things",
    "kind": "product",
    "table": "things",
    "columns": {"product_id": "id", "vendor_id": {"value": "V"}, "name": "title"},
}
QUICKLY = Backoff(0.001, 0.002)


def things(**changes: Any) -> Source:
    columns = THINGS["columns"] | changes.pop("columns", {})
    return Source.model_validate(THINGS | {"columns": columns} | changes)


@pytest.fixture
async def table(pg: Any) -> Any:
    """A table of a shop with rows in it, the way it was before it met the gateway."""
    await pg.execute(
        "CREATE TABLE public.things (id bigint PRIMARY KEY, title text NOT NULL);"
        "INSERT INTO public.things SELECT n, 'Thing ' || n FROM generate_series(1, 5) n"
    )
    await logged(pg)
    return pg


async def traces(connection: Any) -> list[str]:
    """All that attach may have left behind on, and for, the table."""
    rows = await connection.fetch(
        """
        SELECT 'trigger ' || tgname AS what FROM pg_trigger WHERE tgrelid = 'public.things'::regclass
        UNION ALL
        SELECT 'function ' || proname FROM pg_proc
        WHERE pronamespace = 'gateway'::regnamespace AND proname LIKE '%things%'
        UNION ALL
        SELECT 'column ' || attname FROM pg_attribute
        WHERE attrelid = 'public.things'::regclass AND attnum > 0 AND NOT attisdropped
        UNION ALL
        SELECT 'source ' || name FROM gateway.sources WHERE name = 'things'
        ORDER BY 1
        """
    )
    return [row["what"] for row in rows]


async def nonce(connection: Any) -> str:
    text: str = await connection.fetchval("SELECT nonce FROM gateway.control")
    return text


class TestAttach:
    async def test_gives_rows_that_exist_one_version_and_rewrites_no_table(self, table: Any) -> None:
        before = await table.fetchval("SELECT pg_relation_filenode('public.things')")
        await attach(table, things())
        assert await table.fetchval("SELECT pg_relation_filenode('public.things')") == before
        versions = {row["gateway_version"] for row in await table.fetch("SELECT * FROM public.things")}
        assert len(versions) == 1
        assert max(versions) < await table.fetchval("SELECT nextval('gateway.version_seq')")
        assert await logged(table) == []

    async def test_captures_from_then_on(self, table: Any) -> None:
        await attach(table, things())
        await table.execute("UPDATE public.things SET title = 'New' WHERE id IN (1, 2)")
        await table.execute("UPDATE public.things SET title = 'New' WHERE id IN (1, 3)")
        await table.execute("UPDATE public.things SET id = 6 WHERE id = 4")
        await table.execute("DELETE FROM public.things WHERE id = 5")
        rows = [(row.op, row.item["product_id"]) for row in await logged(table)]
        assert rows[:3] == [("U", "1"), ("U", "2"), ("U", "3")]
        assert sorted(rows[3:5]) == [("D", "4"), ("I", "6")]
        assert rows[5:] == [("D", "5")]

    async def test_finds_out_the_types_of_the_keys(self, table: Any) -> None:
        await attach(table, things())
        [source] = [source for source in await attached(table) if source.name == "things"]
        assert source.key_type("product_id") == "integer"

    async def test_begins_a_new_generation(self, table: Any) -> None:
        before = await nonce(table)
        await attach(table, things())
        assert await nonce(table) != before

    async def test_again_changes_nothing_but_the_triggers(self, table: Any) -> None:
        await attach(table, things())
        before = await traces(table), await table.fetch("SELECT * FROM public.things ORDER BY id")
        await attach(table, things())
        assert (await traces(table), await table.fetch("SELECT * FROM public.things ORDER BY id")) == before

    async def test_again_with_other_columns_takes_effect(self, table: Any) -> None:
        await attach(table, things())
        await attach(table, things(columns={"sku": "title"}))
        await table.execute("UPDATE public.things SET title = 'T' WHERE id = 1")
        [row] = await logged(table)
        assert row.item["sku"] == "T"

    async def test_versions_go_on_above_those_that_the_rows_have(self, table: Any) -> None:
        """Of a schema of ours that was dropped since, or of another database."""
        await attach(table, things())
        await table.execute(
            "SET session_replication_role = replica;"
            "UPDATE public.things SET gateway_version = 5000000;"
            "RESET session_replication_role"
        )
        await attach(table, things())
        await table.execute("UPDATE public.things SET title = 'T' WHERE id = 1")
        [row] = await logged(table)
        assert row.version > 5_000_000

    async def test_follows_a_table_that_is_renamed(self, table: Any) -> None:
        await attach(table, things())
        await table.execute('CREATE SCHEMA "New"; ALTER TABLE public.things SET SCHEMA "New"')
        await table.execute('ALTER TABLE "New".things RENAME TO "Things"')
        [source] = [source for source in await attached(table) if source.name == "things"]
        assert (source.schema_name, source.table) == ("New", "Things")

    async def test_gives_up_after_some_attempts_at_the_lock(self, table: Any, database_url: str) -> None:
        async with session(database_url) as other, other.transaction():
            await other.execute("UPDATE public.things SET title = 'busy'")
            with pytest.raises(SourceError, match="was never free for 20 ms in 3 attempts"):
                await attach(table, things(), lock_timeout_ms=20, attempts=3, backoff=QUICKLY)
        assert await traces(table) == ["column id", "column title"]

    async def test_works_for_a_role_that_owns_the_table_and_the_schema_alone(self, database_url: str) -> None:
        """No superuser: what a managed Postgres gives its customers."""
        role, database = f"owner_{secrets.token_hex(6)}", f"managed_{secrets.token_hex(6)}"
        async with session(database_url) as admin:
            await admin.execute(f"CREATE ROLE {role}")
            await admin.execute(f"CREATE DATABASE {database} OWNER {role}")
        url = f"{database_url.rpartition('/')[0]}/{database}?role={role}"
        try:
            await migrate(url)
            async with session(url) as owner:
                assert await owner.fetchval("SELECT current_user::text") == role
                await fill_shop(owner)
                await owner.execute("CREATE TABLE public.things (id uuid PRIMARY KEY, title text)")
                await attach(owner, things())
                await owner.execute("INSERT INTO public.things VALUES (gen_random_uuid(), 'x')")
                assert [row.op for row in await logged(owner)] == ["I"]
                await detach(owner, "things")
        finally:
            async with session(database_url) as admin:
                await admin.execute(f"DROP DATABASE {database} WITH (FORCE)")
                await admin.execute(f"DROP ROLE {role}")


class TestDetach:
    async def test_leaves_nothing(self, table: Any) -> None:
        before = await traces(table)
        await attach(table, things())
        assert len(await traces(table)) > len(before)
        await detach(table, "things")
        assert await traces(table) == before

    async def test_begins_a_new_generation(self, table: Any) -> None:
        await attach(table, things())
        before = await nonce(table)
        await detach(table, "things")
        assert await nonce(table) != before

    async def test_and_attach_again(self, table: Any) -> None:
        for _ in range(3):
            await attach(table, things())
            await table.execute("UPDATE public.things SET title = title || '!' WHERE id = 1")
            assert [row.op for row in await logged(table)] == ["U"]
            await detach(table, "things")
            await table.execute("UPDATE public.things SET title = title || '?'")
            assert await logged(table) == []

    async def test_leaves_the_version_column_of_the_reference_schema(self, pg: Any) -> None:
        await detach(pg, "inventory")
        await pg.execute("SELECT version FROM inventory")
        await attach(pg, next(source for source in default_sources() if source.name == "inventory"))

    async def test_of_a_table_that_is_gone(self, table: Any) -> None:
        await attach(table, things())
        await table.execute("DROP TABLE public.things")
        await detach(table, "things")
        assert await table.fetchval("SELECT count(*) FROM gateway.sources WHERE name = 'things'") == 0

    async def test_of_an_unknown_source(self, pg: Any) -> None:
        with pytest.raises(
            SourceError, match="'thing': is not attached; attached: inventory, locations, products"
        ):
            await detach(pg, "thing")


class TestRefusals:
    @pytest.mark.parametrize(
        ("ddl", "reason"),
        [
            ("SELECT 'nothing'", '"public"."things" does not exist'),
            ("CREATE VIEW public.things AS SELECT 1 AS id, 'x' AS title", "is no ordinary table"),
            (
                (
                    "CREATE TABLE public.all_things (id int PRIMARY KEY, title text) PARTITION BY RANGE (id);"
                    "CREATE TABLE public.things PARTITION OF public.all_things DEFAULT"
                ),
                "is a partition",
            ),
            (
                "CREATE TABLE public.things (id int PRIMARY KEY, title text) PARTITION BY RANGE (id)",
                "is partitioned",
            ),
            (
                (
                    "CREATE TABLE public.base (id int, title text);"
                    "CREATE TABLE public.things (PRIMARY KEY (id)) INHERITS (public.base)"
                ),
                "takes part in inheritance",
            ),
            (
                (
                    "CREATE TABLE public.things (id int PRIMARY KEY, title text);"
                    "CREATE TABLE public.more () INHERITS (public.things)"
                ),
                "takes part in inheritance",
            ),
            (
                "CREATE TABLE public.things (id int, title text)",
                "has no usable key: (id) needs a primary key",
            ),
            (
                "CREATE TABLE public.things (id int, title text, PRIMARY KEY (id, title))",
                "has no usable key",
            ),
            (
                (
                    "CREATE TABLE public.things (id int, title text);"
                    "CREATE UNIQUE INDEX ON public.things (id) WHERE id > 0"
                ),
                "has no usable key",
            ),
            (
                (
                    "CREATE TABLE public.things (id int, title text);"
                    "CREATE UNIQUE INDEX ON public.things ((id + 1))"
                ),
                "has no usable key",
            ),
            (
                "CREATE TABLE public.things (id int UNIQUE DEFERRABLE, title text)",
                "has no usable key",
            ),
            (
                "CREATE TABLE public.things (id numeric PRIMARY KEY, title text)",
                "has 'id' of type numeric: a key is",
            ),
            ("CREATE TABLE public.things (id char(8) PRIMARY KEY, title text)", "has 'id' of type bpchar"),
            (
                "CREATE TABLE public.things (id int PRIMARY KEY, name text)",
                "has no column 'title' (columns.name)",
            ),
            (
                "CREATE TABLE public.things (id int PRIMARY KEY, title text, gateway_version int)",
                "has a column 'gateway_version' that is not ours",
            ),
            (
                (
                    "CREATE TABLE public.things (id int PRIMARY KEY, title text);"
                    "ALTER TABLE public.things ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
                ),
                "forces row security",
            ),
            (
                (
                    "CREATE TABLE public.things (id int PRIMARY KEY, title text);"
                    "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
                    'CREATE TRIGGER "~late" BEFORE INSERT ON public.things'
                    " FOR EACH ROW EXECUTE FUNCTION public.f()"
                ),
                "has the trigger '~late'",
            ),
        ],
    )
    async def test_by_the_form_of_the_table(self, pg: Any, ddl: str, reason: str) -> None:
        await pg.execute(ddl)
        with pytest.raises(AttachRefused) as raised:
            await attach(pg, things())
        assert str(raised.value).startswith("source 'things': ")
        assert reason in str(raised.value)

    async def test_virtual_columns(self, pg: Any) -> None:
        if pg.get_server_version().major < 18:
            pytest.skip("virtual columns came with Postgres 18")
        await pg.execute(
            "CREATE TABLE public.things (id int PRIMARY KEY, title text GENERATED ALWAYS AS ('x') VIRTUAL)"
        )
        with pytest.raises(AttachRefused, match="has the virtual column 'title'"):
            await attach(pg, things())

    @pytest.mark.parametrize(
        ("column", "mapping", "reason"),
        [
            ("price text", {"price_minor": "price"}, "a number is one of int2"),
            ("at text", {"updated_at": "at"}, "a time is one of timestamptz"),
            ("seller json", {"vendor_id": "seller"}, "a key is one of text"),
        ],
    )
    async def test_by_the_types_of_columns(self, table: Any, column: str, mapping: Any, reason: str) -> None:
        await table.execute(f"ALTER TABLE public.things ADD {column}")
        with pytest.raises(AttachRefused, match=reason):
            await attach(table, things(columns=mapping))

    async def test_a_location_that_is_neither_active_nor_not(self, table: Any) -> None:
        places = {
            "name": "places",
            "kind": "location",
            "table": "things",
            "columns": {"location_id": "id", "active": "title"},
        }
        with pytest.raises(AttachRefused, match="a boolean is needed, or words for true and false"):
            await attach(table, Source.model_validate(places))

    async def test_the_target_of_a_subscription(self, table: Any) -> None:
        await table.execute(
            "CREATE SUBSCRIPTION s CONNECTION 'dbname=x' PUBLICATION p WITH (connect = false);"
            "SET allow_system_table_mods = on;"
            "INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate)"
            " SELECT oid, 'public.things'::regclass, 'r' FROM pg_subscription WHERE subname = 's'"
        )
        try:
            with pytest.raises(AttachRefused, match="is the target of a subscription"):
                await attach(table, things())
        finally:
            await table.execute(
                "DELETE FROM pg_subscription_rel WHERE srrelid = 'public.things'::regclass;"
                "ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s"
            )

    async def test_a_table_of_somebody_else(self, table: Any) -> None:
        role = f"guest_{secrets.token_hex(6)}"
        await table.execute(f"CREATE ROLE {role}; GRANT ALL ON SCHEMA gateway TO {role}")
        await table.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA gateway TO {role}")
        try:
            await table.execute(f"SET ROLE {role}")
            with pytest.raises(AttachRefused, match="only its owner may add triggers"):
                await attach(table, things())
        finally:
            await table.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")

    @pytest.mark.parametrize(("schema", "name"), [("gateway", "migrations"), ("pg_catalog", "pg_class")])
    async def test_tables_that_are_no_shops(self, pg: Any, schema: str, name: str) -> None:
        with pytest.raises(AttachRefused, match="is no table of a shop"):
            await attach(pg, things(schema=schema, table=name))

    async def test_a_temporary_table(self, pg: Any) -> None:
        await pg.execute("CREATE TEMPORARY TABLE things (id int PRIMARY KEY, title text)")
        schema = await pg.fetchval("SELECT pg_my_temp_schema()::regnamespace::text")
        with pytest.raises(AttachRefused, match="is a temporary table"):
            await attach(pg, things(schema=schema))

    async def test_one_table_under_two_names(self, table: Any) -> None:
        await attach(table, things())
        with pytest.raises(AttachRefused, match="is attached as 'things' already"):
            await attach(table, things(name="other"))

    async def test_one_name_for_two_tables(self, table: Any) -> None:
        await attach(table, things())
        await table.execute("CREATE TABLE public.others (id int PRIMARY KEY, title text)")
        with pytest.raises(
            AttachRefused, match=r'not the table attached under this name, "public"."things": detach'
        ):
            await attach(table, things(table="others"))

    async def test_leave_no_trace(self, table: Any) -> None:
        before = await traces(table)
        with pytest.raises(AttachRefused):
            await attach(table, things(columns={"sku": "nowhere"}))
        assert await traces(table) == before

    async def test_a_database_that_was_never_migrated(self, empty_database_url: str) -> None:
        async with session(empty_database_url) as connection:
            with pytest.raises(asyncpg.UndefinedTableError):
                await attach(connection, things())


async def test_attaching_twice_at_once_is_one_after_the_other(table: Any, database_url: str) -> None:
    async with session(database_url) as other:
        await asyncio.gather(attach(table, things()), attach(other, things()))
    await table.execute("DELETE FROM public.things WHERE id = 1")
    assert [row.op for row in await logged(table)] == ["D"]
