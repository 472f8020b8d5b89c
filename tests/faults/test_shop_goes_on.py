"""Whatever is done to the gateway or to the shop's tables: no transaction of the shop fails or waits."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from listeners.attach import attach, detach
from listeners.migrations import MIGRATIONS, migrate
from listeners.sources import Column, Source, default_sources
from tests.faults.client import Follower
from tests.faults.ledger import Fault, injected
from tests.faults.rig import Replica, Rig, stack
from tests.faults.witness import Witness, make_shop_role, witnessed
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(300)

SOON_S: Final = 15.0
INVENTORY: Final = next(source for source in default_sources() if source.name == "inventory")
BINS: Final = Source.model_validate(
    {
        "name": "bins",
        "kind": "stock",
        "table": "bins",
        "columns": {"product_id": "sku", "location_id": "site", "vendor_id": "owner", "on_hand": "qty"},
    }
)
MAKE_BINS: Final = """
    CREATE TABLE bins (sku text, site text, owner text NOT NULL, qty int NOT NULL, PRIMARY KEY (sku, site));
    INSERT INTO bins SELECT 'B' || n, 'B1', 'B', n FROM generate_series(1, 100) n
"""
# The links are well here, and need not be given up when the machine is busy.
SCENE: Final = {"replicas": 1, "seed": 6, "verify_s": 5, "probe_timeout_ms": 2000}
# What the witness does all the time, at a location that only it writes to.
MAKE_WITNESS: Final = """
    INSERT INTO vendors (vendor_id, name) VALUES ('W', 'Witness');
    INSERT INTO locations (location_id, vendor_id, name) VALUES ('W1', 'W', 'Witness');
    INSERT INTO products (product_id, vendor_id, name)
        VALUES ('WIT', 'W', 'Always'), ('WIT2', 'W', 'Now and then'), ('WIT3', 'W', 'Once');
    INSERT INTO inventory (product_id, location_id, vendor_id) VALUES ('WIT', 'W1', 'W'), ('WIT3', 'W1', 'W');
"""
WITNESS: Final = (
    "UPDATE inventory SET on_hand = on_hand + 1 WHERE product_id = 'WIT'",
    "UPDATE products SET price_minor = price_minor + 1 WHERE product_id = 'WIT'",
    "DELETE FROM inventory WHERE product_id = 'WIT2'",
    "INSERT INTO inventory (product_id, location_id, vendor_id, on_hand) VALUES ('WIT2', 'W1', 'W', 1)",
)
# Nobody else writes this row.
ONCE: Final = "WHERE product_id = 'WIT3' AND location_id = 'W1'"


class Scene:
    """A rig with a witness in its shop, and followers of what the witness writes."""

    def __init__(self, rig: Rig, witness: Witness, owner: Any) -> None:
        self.rig = rig
        self.replica: Replica = rig.replicas[0]
        self.witness = witness
        self.owner = owner  # a connection of the tables' owner
        self.url = rig.postgres.url

    async def recovered(self, fault: Fault) -> None:
        async with self.witness.quiet():
            await self.rig.recovered(fault)

    async def went_on(self, transactions: int = 20) -> None:
        """The shop has done so many transactions from now on."""
        wanted = self.witness.transactions + transactions
        await eventually(lambda: self.witness.transactions >= wanted, SOON_S)

    async def stale(self, fault: Fault) -> None:
        """Every client has been told."""
        await eventually(lambda: all(follower.stale for follower in self.rig.followers), SOON_S)
        fault.noticed()

    def gave_reason(self, words: str) -> bool:
        """Whether the replica has logged this as the reason for something."""
        return any(words in str(line.get("reason", "")) for _, line in self.replica.lines)

    async def new_reign(self) -> None:
        """The relay begins anew, with all that it does first."""
        reigns = await self.replica.metric("gateway_relay_reigns_total") or 0
        await self.owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE '%relay reader'"
        )

        async def begun() -> bool:
            now = await self.replica.metric("gateway_relay_reigns_total") or 0
            return now > reigns and await self.replica.metric("gateway_relay_active") == 1

        await eventually(begun, SOON_S)

    async def mismatch(self) -> None:
        """The replica has found one."""

        async def found() -> bool:
            return (await self.replica.metric("gateway_mismatches_total") or 0) > 0

        await eventually(found, SOON_S)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[asyncpg.Connection]:
        async with self.rig.shop.connected() as connection:
            yield connection


@asynccontextmanager
async def scene(*, mismatches: int | None = 0, **options: Any) -> AsyncIterator[Scene]:
    """One replica, which finds so many mismatches in all; None: any number."""
    async with stack(**{**SCENE, **options}) as rig:
        rig.may_differ = mismatches != 0
        async with rig.shop.connected() as owner:
            await owner.execute(MAKE_WITNESS)
            await make_shop_role(owner)
            follower = rig.follow(rig.replicas, ["vendor:W", "product:WIT", "location:W1"])
            await eventually(lambda: follower.content, SOON_S)
            async with witnessed(rig.postgres.url, *WITNESS) as witness:
                yield Scene(rig, witness, owner)
                async with witness.quiet():
                    await rig.converged()
        found = await rig.replicas[0].metric("gateway_mismatches_total")
        assert mismatches is None or found == mismatches


async def waits_for_lock(connection: Any) -> bool:
    return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"))


class TestAttachAndDetach:
    async def test_under_load(self) -> None:
        async with scene() as it, it.session() as other:
            await it.owner.execute(MAKE_BINS)
            await make_shop_role(it.owner)
            follower = it.rig.follow(it.rig.replicas, ["location:B1"])
            it.rig.followers.remove(follower)  # what it follows is not of the reference shop
            it.witness.statements += ("UPDATE bins SET qty = qty + 1 WHERE sku = 'B1'",)
            await it.went_on()
            with injected("shop: a table is attached") as fault:
                await attach(it.owner, BINS)
                await eventually(lambda: len(follower.copies["location:B1"].items) == 100, SOON_S)
                await it.recovered(fault)
            with injected("shop: a table is attached beside a long transaction") as fault:
                async with it.session() as slow, slow.transaction():
                    await slow.execute("UPDATE bins SET qty = 0 WHERE sku = 'B2'")
                    attaching = asyncio.create_task(attach(it.owner, BINS))
                    await eventually(lambda: waits_for_lock(other), SOON_S)
                    await it.went_on(50)
                    assert not attaching.done()
                await attaching
                fault.ended()
                await it.recovered(fault)
            with injected("shop: a table is attached twice at once") as fault:
                await asyncio.gather(attach(it.owner, BINS), attach(other, BINS))
                await it.recovered(fault)
            with injected("shop: a table is detached") as fault:
                await detach(it.owner, "bins")
                await eventually(lambda: not follower.copies["location:B1"].items, SOON_S)
                await it.recovered(fault)
            with injected("shop: the inventory is detached, and attached by migrate") as fault:
                await detach(it.owner, "inventory")
                await it.went_on()
                await migrate(it.url)
                fault.ended()
                await it.recovered(fault)
                it.rig.forget()  # what changed in between could not be told


class TestMigration:
    @pytest.fixture
    def next_release(self, tmp_path: Path) -> Path:
        """The migrations with one more, which alters what every trigger reads."""
        directory = tmp_path / "migrations"
        shutil.copytree(MIGRATIONS, directory)
        number = len(list((directory / "gateway").glob("*.sql"))) + 1
        (directory / "gateway" / f"{number:04d}_next.sql").write_text(
            "ALTER TABLE gateway.control ADD COLUMN next text;"
            "ALTER TABLE gateway.change_log ADD COLUMN next text;"
        )
        return directory

    async def test_while_the_previous_version_runs(self, next_release: Path) -> None:
        async with scene() as it, it.session() as other:
            with injected("gateway: migrate runs twice at once") as fault:
                await asyncio.gather(migrate(it.url), migrate(it.url))
                await it.recovered(fault)
            with injected("gateway: migrated to the next release beside a long transaction") as fault:
                async with it.session() as slow, slow.transaction():
                    await slow.execute(f"UPDATE inventory SET on_hand = 1 {ONCE}")
                    migrating = asyncio.create_task(migrate(it.url, directory=next_release))
                    await eventually(lambda: waits_for_lock(other), SOON_S)
                    await it.went_on(50)
                    assert not migrating.done()
                assert len(await migrating) == 1
                fault.ended()
                await it.recovered(fault)
            with injected("gateway: notifications are switched off and on") as fault:
                await migrate(it.url, notify="off", directory=next_release)
                await it.went_on()
                await migrate(it.url, notify="auto", directory=next_release)
                fault.ended()
                await it.recovered(fault)


class TestEveryGatewayIsDownForTooLong:
    """Longer than the log is kept: the disk of the shop comes first."""

    async def test_logging_is_skipped_and_copies_are_right_afterwards(self) -> None:
        async with scene() as it:
            with injected("gateway: none runs for longer than the log is kept") as fault:
                await self.stop_for_days(it)
                before = await self.losses(it)
                await it.went_on()
                assert await self.losses(it) > before
                await self.start(it)
                fault.ended()
                await it.recovered(fault)

    async def test_a_transaction_that_was_not_logged_and_commits_later(self) -> None:
        """Nothing in the log tells of it, and the generation that begins in between does not contain it.

        The sweep may find it before the gateway has noticed: docs/reliability.md, what is not promised.
        """
        async with scene(mismatches=None) as it:
            for isolation in ("read_committed", "repeatable_read"):
                with injected("gateway: back before the end of a transaction that was not logged") as fault:
                    await self.stop_for_days(it)
                    async with it.session() as slow, slow.transaction(isolation=isolation):
                        await slow.execute(f"UPDATE inventory SET on_hand = on_hand + 100 {ONCE}")
                        await self.start(it)
                        async with it.witness.quiet():
                            await it.rig.converged()
                    fault.ended()
                    await it.recovered(fault)

    async def test_a_transaction_that_was_prepared_meanwhile(self) -> None:
        settings = {"max_prepared_transactions": "10"}
        async with scene(mismatches=None, postgres_settings=settings) as it:
            with injected("shop: a prepared transaction outlives a relay") as fault:
                await self.prepare(it, f"UPDATE inventory SET on_hand = 77 {ONCE}")
                await it.replica.kill()
                await it.replica.start()
                await it.replica.wait_ready()
                await it.owner.execute("COMMIT PREPARED 'slow'")
                fault.ended()
                await it.recovered(fault)
            with injected("shop: a prepared transaction that was not logged") as fault:
                await self.stop_for_days(it)
                await self.prepare(it, f"UPDATE inventory SET on_hand = 88 {ONCE}")
                await self.start(it)
                async with it.witness.quiet():
                    await it.rig.converged()
                await it.owner.execute("COMMIT PREPARED 'slow'")
                fault.ended()
                await it.recovered(fault)

    async def prepare(self, it: Scene, statement: str) -> None:
        async with it.session() as connection:
            await connection.execute(f"BEGIN; {statement}; PREPARE TRANSACTION 'slow'")

    async def losses(self, it: Scene) -> int:
        return int(await it.owner.fetchval("SELECT last_value + is_called::int FROM gateway.loss_seq"))

    async def stop_for_days(self, it: Scene) -> None:
        await it.replica.kill()
        await it.owner.execute("UPDATE gateway.control SET relay_seen_at = relay_seen_at - interval '2 days'")

    async def start(self, it: Scene) -> None:
        await it.replica.start()
        await it.replica.wait_ready()


class TestTheLog:
    async def test_a_leaf_that_can_not_be_emptied(self) -> None:
        async with scene() as it:
            leaf = await self.old_leaf(it)
            with injected("log: a leaf is read by somebody while it should be emptied") as fault:
                async with it.session() as reader, reader.transaction():
                    await reader.execute(f"SELECT FROM {leaf} LIMIT 1")
                    await it.new_reign()
                    await it.went_on()
                    assert await self.rows(it, leaf) > 0
                await it.new_reign()
                await eventually(partial(self.is_empty, it, leaf), SOON_S)
                fault.ended()
                await it.recovered(fault)
            with injected("log: a leaf is locked against everybody") as fault:
                async with it.session() as locker, locker.transaction():
                    await locker.execute(f"LOCK TABLE {leaf} IN ACCESS EXCLUSIVE MODE")
                    await it.stale(fault)
                    await it.went_on()
                fault.ended()
                await it.recovered(fault)

    async def test_a_ring_full_of_what_nobody_has_read(self) -> None:
        """As it is when no relay was there for eight hours or more, and the log is kept for 24."""
        async with scene() as it:
            with injected("log: the ring wraps onto leaves that are not read") as fault:
                await it.replica.kill()
                await it.went_on(50)
                async with it.witness.quiet(), it.rig.shop.quiet():
                    await it.owner.execute("UPDATE gateway.change_log SET slot = id % 8")
                    leaves = await it.owner.fetchval(
                        "SELECT count(DISTINCT tableoid) FROM gateway.change_log"
                    )
                    assert leaves == 8
                await it.replica.start()
                fault.ended()
                await it.recovered(fault)

    async def test_a_log_full_of_what_everybody_has_read(self) -> None:
        async with scene() as it:
            with injected("log: bloated by 300,000 rows that were read") as fault:
                await it.owner.execute(
                    "INSERT INTO gateway.change_log (slot, xid, source, op, version, item)"
                    " SELECT n % 8, '3', 'inventory', 'U', 1, '{}' FROM generate_series(1, 300000) n"
                )
                await it.new_reign()
                await it.recovered(fault)

    async def old_leaf(self, it: Scene) -> str:
        """A leaf with rows that everybody has read, four hours ago."""
        slot = await it.owner.fetchval("SELECT (extract(epoch FROM now())::bigint / 3600 - 4) % 8")
        await it.owner.execute(
            "INSERT INTO gateway.change_log (slot, xid, source, op, version, item, recorded_at)"
            " SELECT $1::int, '3', 'inventory', 'U', 1, '{}', now() - interval '4 hours'"
            " FROM generate_series(1, 1000)",
            slot,
        )
        return f"gateway.change_log_{slot}"

    async def rows(self, it: Scene, leaf: str) -> int:
        return int(await it.owner.fetchval(f"SELECT count(*) FROM {leaf}"))

    async def is_empty(self, it: Scene, leaf: str) -> bool:
        return await self.rows(it, leaf) == 0


ROLE: Final = "gatekeeper"
"""What the gateway runs as: the rights that it needs and no others."""
MAKE_ROLE: Final = f"""
    CREATE ROLE {ROLE} LOGIN;
    GRANT USAGE ON SCHEMA gateway TO {ROLE};
    GRANT ALL ON ALL TABLES IN SCHEMA gateway TO {ROLE};
    GRANT ALL ON ALL SEQUENCES IN SCHEMA gateway TO {ROLE};
    GRANT SELECT ON ALL TABLES IN SCHEMA public TO {ROLE};
"""
REVOKED: Final = (
    ("inventory", "REVOKE SELECT ON inventory FROM {role}", "GRANT SELECT ON inventory TO {role}"),
    ("the schema", "REVOKE USAGE ON SCHEMA gateway FROM {role}", "GRANT USAGE ON SCHEMA gateway TO {role}"),
    (
        "the log",
        "REVOKE SELECT ON gateway.change_log FROM {role}",
        "GRANT SELECT ON gateway.change_log TO {role}",
    ),
    (
        "logging in",
        (
            "ALTER ROLE {role} NOLOGIN;"
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'"
        ),
        "ALTER ROLE {role} LOGIN",
    ),
)


class TestRevokedRights:
    async def test_of_the_gateways_role(self) -> None:
        async with scene() as it:
            await it.owner.execute(MAKE_ROLE)
            await it.replica.kill()
            login, _, rest = it.replica.settings["database_url"].partition("@")
            it.replica.settings["database_url"] = f"{login.partition('://')[0]}://{ROLE}@{rest}"
            await it.replica.start()
            await it.replica.wait_ready()
            async with it.witness.quiet():
                await it.rig.converged()
            for what, revoke, grant in REVOKED:
                with injected(f"postgres: the gateway's right to {what} is revoked") as fault:
                    await it.owner.execute(revoke.format(role=ROLE))
                    await it.stale(fault)
                    await eventually(
                        lambda: (
                            it.gave_reason("permission denied") or it.gave_reason("not permitted to log in")
                        )
                    )
                    await it.went_on()
                    await it.owner.execute(grant.format(role=ROLE))
                    fault.ended()
                    await it.recovered(fault)


RIGHTS: Final = "GRANT SELECT, INSERT, UPDATE, DELETE ON inventory TO cashier"
ALTERED: Final = (
    ("a column is added", "ALTER TABLE inventory ADD COLUMN note text DEFAULT 'none'"),
    ("a column that is sent is dropped", "ALTER TABLE inventory DROP COLUMN incoming"),
    ("a column that is sent is renamed", "ALTER TABLE inventory RENAME COLUMN damaged TO broken"),
    ("a number gets another type", "ALTER TABLE products ALTER COLUMN price_minor TYPE numeric(12, 0)"),
    ("a text gets another type", "ALTER TABLE products ALTER COLUMN name TYPE varchar(80)"),
    (
        "a table gets another name, and a view its old one",
        (
            "BEGIN; ALTER TABLE inventory RENAME TO stock; CREATE VIEW inventory AS SELECT * FROM stock;"
            f"{RIGHTS}; COMMIT"
        ),
    ),
    (
        "a table gets its old name back",
        "BEGIN; DROP VIEW inventory; ALTER TABLE stock RENAME TO inventory; COMMIT",
    ),
)


class TestAlteredTables:
    async def test_what_the_gateway_can_live_with(self) -> None:
        async with scene() as it:
            for what, statement in ALTERED:
                with injected(f"shop: {what}") as fault:
                    await it.owner.execute(statement)
                    await it.went_on()
                    await it.recovered(fault)

    async def test_a_key_that_gets_another_name(self) -> None:
        """Clients are told that their copies are not kept, operators why, until the source is mended."""
        mended = INVENTORY.model_copy(
            update={"columns": dict(INVENTORY.columns) | {"location_id": Column(column="place_id")}}
        )
        async with scene() as it:
            with injected("shop: a key column gets another name") as fault:
                it.witness.statements = WITNESS[:2]  # which do not name it
                async with it.witness.quiet():
                    await it.owner.execute("ALTER TABLE inventory RENAME COLUMN location_id TO place_id")
                await it.stale(fault)
                await eventually(lambda: it.gave_reason("location_id"), SOON_S)
                await it.went_on()
                await attach(it.owner, mended)
                fault.ended()
                async with it.witness.quiet():
                    on_hand = await it.owner.fetchval(
                        "SELECT on_hand FROM inventory WHERE product_id = 'WIT'"
                    )
                    watching = it.rig.followers[-1]
                    await eventually(lambda: watching.content and self.seen(watching) == on_hand, SOON_S)
                fault.recovered()
            with injected("shop: a key column gets its old name back") as fault:
                await it.owner.execute("ALTER TABLE inventory RENAME COLUMN place_id TO location_id")
                await attach(it.owner, INVENTORY)
                it.witness.statements = WITNESS
                fault.ended()
                await it.recovered(fault)
                it.rig.forget()  # the pulse could not be written in between

    def seen(self, watching: Follower) -> int:
        return int(watching.copies["product:WIT"].items["stock:WIT:W1"]["on_hand"])


class TestWhatNoTriggerSees:
    async def test_it_is_found_and_repaired(self) -> None:
        async with scene(mismatches=None, verify_s=2) as it:
            with injected("shop: writes of a session without triggers") as fault:
                async with it.session() as session, session.transaction():
                    await session.execute("SET LOCAL session_replication_role = replica")
                    await session.execute(
                        "UPDATE inventory SET on_hand = on_hand + 1000 WHERE location_id = 'W1'"
                    )
                await it.mismatch()
                await it.recovered(fault)
            with injected("shop: writes while the triggers are disabled") as fault:
                async with it.witness.quiet(), it.rig.shop.quiet(), it.owner.transaction():
                    await it.owner.execute("ALTER TABLE inventory DISABLE TRIGGER USER")
                    await it.owner.execute(
                        "UPDATE inventory SET on_hand = on_hand + 1000 WHERE location_id = 'W1'"
                    )
                    await it.owner.execute("ALTER TABLE inventory ENABLE TRIGGER USER")
                await it.recovered(fault)


class TestDropped:
    async def test_an_attached_table_and_the_gateways_schema(self) -> None:
        async with scene() as it:
            await it.owner.execute(MAKE_BINS)
            await attach(it.owner, BINS)
            follower = it.rig.follow(it.rig.replicas, ["location:B1"])
            it.rig.followers.remove(follower)
            await eventually(
                lambda: follower.content and len(follower.copies["location:B1"].items) == 100, SOON_S
            )
            with injected("shop: an attached table is dropped") as fault:
                await it.owner.execute("DROP TABLE bins")
                await eventually(lambda: not follower.copies["location:B1"].items, SOON_S)
                await it.recovered(fault)
            with injected("postgres: the gateway's schema is dropped") as fault:
                async with it.witness.quiet(), it.rig.shop.quiet():
                    await it.owner.execute("DROP SCHEMA gateway CASCADE")
                await it.stale(fault)
                await it.went_on()
                await migrate(it.url, shop=False)
                for source in default_sources():
                    await attach(it.owner, source)
                fault.ended()
                await it.recovered(fault)
                it.rig.forget()  # what changed in between could not be told
