import asyncio
import shutil
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from listeners.attach import attach, attached, detach
from listeners.backoff import Backoff
from listeners.errors import MigrationError, Refused
from listeners.migrations import MIGRATIONS, migrate, pending, read_migrations
from listeners.postgres import LOCK_MIGRATE
from listeners.sources import default_sources
from tests.support.databases import with_database
from tests.support.waiting import eventually

ALL = [
    "gateway/0001_change_log",
    "gateway/0002_acknowledged",
    "gateway/0003_losses_settled",
    "gateway/0004_columns_are",
    "shop/0001_reference_schema",
    "source products",
    "source locations",
    "source inventory",
]
OURS = [name for name in ALL if name.startswith("gateway/")]
FILES = [name for name in ALL if "/" in name]
NEXT = "0005"
SCHEMA = r"""
    SELECT table_schema, table_name, column_name, data_type, column_default, is_nullable
    FROM information_schema.columns WHERE table_schema IN ('gateway', 'public')
    UNION ALL
    SELECT n.nspname, p.proname, 'function',
        -- The number of a table is another one in each database.
        regexp_replace(pg_get_functiondef(p.oid), '[0-9]+(''?::pg_catalog[.](oid|regclass))', 'N\1', 'g'),
        null, null
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'gateway'
    UNION ALL
    SELECT 'trigger', tgrelid::regclass::text, tgname, pg_get_triggerdef(oid), null, null
    FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL
    SELECT schemaname, tablename, indexname, indexdef, null, null
    FROM pg_indexes WHERE schemaname IN ('gateway', 'public')
    UNION ALL
    SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), null, null
    FROM pg_constraint WHERE conrelid <> 0 AND connamespace::regnamespace::text IN ('gateway', 'public')
    ORDER BY 1, 2, 3, 4
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A copy of the migrations that a test may spoil."""
    for name in ("gateway", "shop"):
        shutil.copytree(MIGRATIONS / name, tmp_path / name)
    return tmp_path


async def query(url: str, sql: str, *args: Any) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetch(sql, *args)
    finally:
        await connection.close()


class TestMigrateFromZero:
    async def test_applies_everything_and_attaches_the_default_sources(self, empty_database_url: str) -> None:
        assert await pending(empty_database_url) == FILES
        assert await migrate(empty_database_url) == ALL
        assert await pending(empty_database_url) == []
        names = await query(empty_database_url, "SELECT name FROM gateway.sources ORDER BY name")
        assert [row["name"] for row in names] == ["inventory", "locations", "products"]

    async def test_does_nothing_the_second_time(self, database_url: str) -> None:
        before = await query(database_url, SCHEMA)
        assert await migrate(database_url) == []
        assert await query(database_url, SCHEMA) == before

    async def test_the_migrations_alone_give_the_whole_schema(
        self, empty_database_url: str, files: Path, database_url: str
    ) -> None:
        """From every earlier state there is, one more migration at a time."""
        steps = [(m.set, m.number) for m in read_migrations()]
        for name in ("gateway", "shop"):
            for file in (files / name).glob("*.sql"):
                file.unlink()
        for name, number in steps:
            for file in (MIGRATIONS / name).glob(f"{number:04d}_*.sql"):
                shutil.copy(file, files / name)
            if (files / "shop" / "0001_reference_schema.sql").exists():
                await migrate(empty_database_url, directory=files)
        assert await query(empty_database_url, SCHEMA) == await query(database_url, SCHEMA)

    async def test_two_at_once_apply_everything_once(self, empty_database_url: str) -> None:
        first, second = await asyncio.gather(migrate(empty_database_url), migrate(empty_database_url))
        assert sorted([first, second], key=len) == [[], ALL]

    async def test_waits_only_so_long_for_another(self, empty_database_url: str) -> None:
        other = await asyncpg.connect(empty_database_url)
        await other.execute("SELECT pg_advisory_lock($1)", LOCK_MIGRATE)
        try:
            with pytest.raises(MigrationError, match="another migrate has been running"):
                await migrate(empty_database_url, lock_timeout_ms=20)
        finally:
            await other.close()
        assert await migrate(empty_database_url) == ALL

    async def test_refuses_a_role_that_may_not_create(self, empty_database_url: str) -> None:
        name = f"poor_{empty_database_url.rpartition('/')[2]}"
        await query(empty_database_url, f"CREATE ROLE {name}")
        try:
            with pytest.raises(MigrationError, match="the role needs CREATE on the database"):
                await migrate(f"{empty_database_url}?role={name}")
        finally:
            await query(empty_database_url, f"DROP ROLE {name}")

    async def test_goes_on_where_another_was_killed(self, pg: Any, database_url: str) -> None:
        await pg.execute("UPDATE gateway.control SET shop = NULL")
        await detach(pg, "inventory")
        assert await migrate(database_url) == ["source inventory"]

    async def test_a_database_that_is_not_there(self, empty_database_url: str) -> None:
        with pytest.raises(Refused):
            await migrate(with_database(empty_database_url, "nowhere"))


class TestMigrateWithoutShop:
    async def test_leaves_the_reference_schema_out_for_good(self, empty_database_url: str) -> None:
        assert await migrate(empty_database_url, shop=False) == OURS
        assert await pending(empty_database_url) == []
        assert await migrate(empty_database_url) == []
        assert (await query(empty_database_url, "SELECT to_regclass('public.products') AS t"))[0]["t"] is None

    async def test_refuses_to_leave_it_out_afterwards(self, database_url: str) -> None:
        with pytest.raises(MigrationError, match="has the reference schema already"):
            await migrate(database_url, shop=False)

    @pytest.mark.parametrize("table", ["vendors", "products", "locations", "inventory"])
    async def test_is_what_a_database_with_such_tables_is_told(
        self, empty_database_url: str, table: str
    ) -> None:
        await query(empty_database_url, f"CREATE TABLE public.{table} (id int)")
        with pytest.raises(MigrationError, match=rf"public\.{table} exists .* `migrate --no-shop`"):
            await migrate(empty_database_url)
        assert await pending(empty_database_url) == FILES
        assert await migrate(empty_database_url, shop=False) == OURS


class TestChecksums:
    async def test_a_changed_applied_file_is_an_error(self, empty_database_url: str, files: Path) -> None:
        await migrate(empty_database_url, directory=files)
        file = files / "shop" / "0001_reference_schema.sql"
        file.write_text(file.read_text() + "\n-- changed\n")
        for attempt in (migrate, pending):
            with pytest.raises(MigrationError, match="shop/0001_reference_schema was changed after"):
                await attempt(empty_database_url, directory=files)

    async def test_a_migration_of_a_newer_version_is_an_error(
        self, empty_database_url: str, files: Path
    ) -> None:
        (files / "gateway" / f"{NEXT}_later.sql").write_text("CREATE TABLE gateway.later (id int);")
        assert f"gateway/{NEXT}_later" in await migrate(empty_database_url, directory=files)
        with pytest.raises(MigrationError, match=f"gateway/{NEXT}_later is applied but unknown here"):
            await pending(empty_database_url)

    async def test_a_failing_migration_leaves_nothing_of_itself(
        self, empty_database_url: str, files: Path
    ) -> None:
        later = files / "gateway" / f"{NEXT}_later.sql"
        later.write_text("CREATE TABLE gateway.later (id int); SELECT 1 / 0;")
        with pytest.raises(MigrationError, match=f"gateway/{NEXT}_later: division by zero"):
            await migrate(empty_database_url, directory=files)
        assert await pending(empty_database_url, directory=files) == [
            f"gateway/{NEXT}_later",
            "shop/0001_reference_schema",
        ]
        later.write_text("CREATE TABLE gateway.later (id int);")
        await migrate(empty_database_url, directory=files)
        assert await pending(empty_database_url, directory=files) == []

    @pytest.mark.parametrize("name", ["0006_gap.sql", "4_short.sql", f"{NEXT}_Upper.sql"])
    def test_files_are_numbered_without_gaps(self, files: Path, name: str) -> None:
        (files / "gateway" / name).write_text("SELECT 1;")
        with pytest.raises(MigrationError, match=f"gateway/{name}: number {NEXT} is expected"):
            read_migrations(files)


class TestSources:
    async def test_a_detached_default_source_is_pending(self, pg: Any, database_url: str) -> None:
        await detach(pg, "inventory")
        assert await pending(pg) == ["source inventory"]
        assert await migrate(database_url) == ["source inventory"]

    async def test_a_source_of_an_older_version_is_attached_anew(self, pg: Any, database_url: str) -> None:
        await pg.execute(
            "UPDATE gateway.sources SET checksum = 'of an older version' WHERE name = 'products'"
        )
        await pg.execute("DROP TRIGGER gateway_log_update ON products")
        assert await pending(pg) == ["source products"]
        assert await migrate(database_url) == ["source products"]
        assert await pending(pg) == []
        await pg.execute("DROP TRIGGER gateway_log_update ON products")  # it is back

    async def test_one_whose_table_is_gone_is_left_alone(self, pg: Any) -> None:
        await pg.execute("DROP TABLE inventory")
        assert [source.name for source in await attached(pg)] == ["locations", "products"]
        assert await pending(pg) == []

    async def test_attaching_waits_for_a_writer_and_lets_others_through(
        self, pg: Any, database_url: str
    ) -> None:
        await pg.execute("INSERT INTO vendors VALUES ('V', 'Vendor')")
        products = next(source for source in default_sources() if source.name == "products")
        writer = await asyncpg.connect(database_url)
        transaction = writer.transaction()
        await transaction.start()
        await writer.execute("INSERT INTO products (product_id, vendor_id, name) VALUES ('A', 'V', 'a')")
        attaching = asyncio.create_task(
            attach(pg, products, lock_timeout_ms=50, attempts=1000, backoff=Backoff(0.01, 0.05))
        )
        try:
            other = await asyncpg.connect(database_url)
            await eventually(lambda: waits_for_lock(other, pg))
            await other.execute("INSERT INTO products (product_id, vendor_id, name) VALUES ('B', 'V', 'b')")
            await transaction.commit()
            await attaching
            await other.close()
        finally:
            attaching.cancel()
            await writer.close()


async def waits_for_lock(observer: Any, connection: Any) -> bool:
    waiting: bool = await observer.fetchval(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)", connection.get_server_pid()
    )
    return waiting


class TestNotify:
    async def test_is_kept_in_the_database(self, database_url: str) -> None:
        await migrate(database_url, notify="off")
        await migrate(database_url)
        assert (await query(database_url, "SELECT notify FROM gateway.control"))[0]["notify"] == "off"
        await migrate(database_url, notify="auto")
        assert (await query(database_url, "SELECT notify FROM gateway.control"))[0]["notify"] == "auto"
