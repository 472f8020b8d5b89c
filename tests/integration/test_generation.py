import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from listeners.change_log import load_position, save_position
from listeners.embedded import PostgresServer
from listeners.generation import (
    Identity,
    adopt_database,
    read_identity,
    read_system,
    skip_to_now,
    start_over,
)
from listeners.keeper import relay_seen
from listeners.losses import LossWatch
from listeners.migrations import migrate
from listeners.placed_pool import PlacedPool
from listeners.postgres import connected
from listeners.topic_store import Reign
from tests.support.capture import fill_shop, logged, session
from tests.support.databases import with_database
from tests.support.postgres_programs import make_standby
from tests.support.servers import server_directory


class OneConnection:
    """A pool of it."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Any]:
        yield self._connection

    async def expire_connections(self) -> None: ...


class Reigning:
    def __init__(self, generation: str) -> None:
        self._generation = generation

    async def reign(self) -> Reign:
        return Reign(self._generation, 1)


async def identity(pg: Any) -> Identity:
    return await read_identity(pg, "redis")


class TestTheIdentityOfADatabase:
    async def test_stays_while_nothing_happens(self, pg: Any) -> None:
        await adopt_database(pg)
        first = await identity(pg)
        await pg.execute("INSERT INTO vendors (vendor_id, name) VALUES ('V', 'Vendor')")
        await pg.execute("CHECKPOINT")
        assert await identity(pg) == first
        assert first.redis == "redis"
        assert len(first.timeline) == 8

    @pytest.mark.parametrize(
        "event",
        [
            "DELETE FROM gateway.alive",  # what a crash does
            "SELECT nextval('gateway.loss_seq')",
            "UPDATE gateway.control SET nonce = 'another'",
            "UPDATE gateway.sources SET attached_at = now() WHERE name = 'products'",
            "ALTER TABLE inventory DISABLE TRIGGER gateway_log_update",
            "DROP TRIGGER gateway_log_update ON inventory",
        ],
    )
    async def test_changes_when_topics_may_hold_what_is_no_more_or_lack_something(
        self, pg: Any, event: str
    ) -> None:
        await adopt_database(pg)
        first = await identity(pg)
        await pg.execute(event)
        assert (await identity(pg)).generation != first.generation

    async def test_remembers_that_triggers_were_switched_off(self, pg: Any) -> None:
        first = await identity(pg)
        await pg.execute("ALTER TABLE inventory DISABLE TRIGGER ALL")
        await pg.execute("ALTER TABLE inventory ENABLE TRIGGER ALL")
        assert (await identity(pg)).sources != first.sources

    async def test_does_not_care_for_the_shop_s_own_triggers_and_columns(self, pg: Any) -> None:
        first = await identity(pg)
        await pg.execute(
            "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
            "CREATE TRIGGER a BEFORE UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION nothing();"
            "ALTER TABLE inventory ADD COLUMN note text"
        )
        await pg.execute("VACUUM FREEZE pg_trigger")
        assert await identity(pg) == first

    async def test_names_its_cluster_though_databases_are_numbered_alike(
        self, pg: Any, private_postgres: PostgresServer
    ) -> None:
        """As in two clusters that were made by the same steps."""
        number = await pg.fetchval("SELECT oid FROM pg_database WHERE datname = current_database()")
        async with connected(private_postgres.url, purpose="test") as there:
            await there.execute(f"CREATE DATABASE alike OID {number}")
        async with connected(with_database(private_postgres.url, "alike"), purpose="test") as alike:
            ours, theirs = [(await read_system(connection)).split("/") for connection in (pg, alike)]
        assert ours[1] == theirs[1]
        assert ours[0] != theirs[0]

    async def test_differs_between_databases_of_one_server(self, pg: Any, empty_database_url: str) -> None:
        async with connected(empty_database_url, purpose="test") as other:
            theirs, ours = await read_system(other), await read_system(pg)
        assert theirs.split("/")[0] == ours.split("/")[0]
        assert theirs != ours

    async def test_tells_a_promoted_standby_from_its_primary(self, private_postgres: PostgresServer) -> None:
        """By the timeline alone: here gateway.alive, which no standby has, was brought along by somebody."""
        await migrate(private_postgres.url)
        async with connected(private_postgres.url, purpose="test") as primary:
            await adopt_database(primary)
            before = await identity(primary)
        with server_directory() as directory:
            standby = await make_standby(private_postgres.port, directory)
            try:
                async with connected(standby.url, purpose="test") as promoted:
                    with pytest.raises(ConnectionError, match="standby"):
                        await PlacedPool(OneConnection(promoted), Reigning(before.generation)).fetch("SELECT")
                    await promoted.execute("SELECT pg_promote()")
                    assert (await identity(promoted)).alive == ""
                    await promoted.execute("INSERT INTO gateway.alive (id) VALUES ($1)", before.alive)
                    after = await identity(promoted)
            finally:
                await standby.stop()
        assert (before.timeline, after.timeline) == ("00000001", "00000002")
        assert dataclasses.replace(after, timeline=before.timeline) == before
        assert after.generation != before.generation
        assert after.place != before.place


class TestAdoption:
    async def test_happens_once(self, pg: Any) -> None:
        assert await adopt_database(pg)
        alive = (await identity(pg)).alive
        assert not await adopt_database(pg)
        assert (await identity(pg)).alive == alive

    async def test_moves_the_position_with_it(self, pg: Any) -> None:
        await save_position(pg, "5:5:")
        await adopt_database(pg)
        position = await load_position(pg)
        assert position.snapshot is not None
        assert position.snapshot != "5:5:"
        assert position.counter == 2

    async def test_of_a_dump_from_elsewhere_draws_a_new_id(self, pg: Any) -> None:
        await pg.execute("INSERT INTO gateway.alive (id) VALUES ('drawn-there@123/456')")
        assert await adopt_database(pg)
        assert await pg.fetchval("SELECT count(*) FROM gateway.alive") == 1
        assert "123/456" not in (await identity(pg)).alive


class TestWhoHasSkippedTheLog:
    async def test_asks_for_another_generation_when_it_ends(self, pg: Any, database_url: str) -> None:
        await adopt_database(pg)
        await fill_shop(pg)
        await pg.execute("UPDATE gateway.control SET relay_seen_at = now() - interval '2 days'")
        watch = LossWatch()
        async with session(database_url) as one, session(database_url) as other:
            changes = [connection.transaction() for connection in (one, other)]
            for change in changes:
                await change.start()
            await one.execute("UPDATE products SET price_minor = 2 WHERE product_id = 'A'")
            await other.execute("UPDATE products SET price_minor = 2 WHERE product_id = 'B'")
            await relay_seen(pg, 86_400)
            identities = [await self.settled(pg, watch)]
            assert await self.settled(pg, LossWatch()) == identities[-1], "noted once, whoever looks"
            await changes[0].commit()
            identities.append(await self.settled(pg, watch))
            await changes[1].rollback()
            identities.append(await self.settled(pg, watch))
        assert await self.settled(pg, watch) == identities[-1], "all is said"
        assert len({each.generation for each in identities}) == 3
        assert await logged(pg) == []

    async def test_is_nobody_where_nothing_was_ever_skipped(self, pg: Any) -> None:
        before = await identity(pg)
        assert await self.settled(pg, LossWatch()) == before

    async def settled(self, pg: Any, watch: LossWatch) -> Identity:
        """The identity once the watch finds nothing new, which takes two looks."""
        while await watch.look(pg) or await watch.look(pg):
            pass
        return await identity(pg)


class TestSkipping:
    async def test_drops_rows_that_another_cluster_has_numbered(self, pg: Any) -> None:
        await pg.execute("TRUNCATE gateway.change_log")
        await pg.execute("INSERT INTO gateway.change_log (source, op) VALUES ('ours', 'U')")
        await pg.execute(
            "INSERT INTO gateway.change_log (xid, source, op) VALUES ('999999999', 'theirs', 'U')"
        )
        snapshot, _ = await skip_to_now(pg)
        kept = await pg.fetch("SELECT source FROM gateway.change_log")
        assert [record["source"] for record in kept] == ["ours"]
        assert (await load_position(pg)).snapshot == snapshot

    async def test_lifts_the_counter_above_what_redis_remembers(self, pg: Any) -> None:
        await save_position(pg, "5:5:")
        _, counter = await skip_to_now(pg, counter=70)
        assert counter == 71
        _, counter = await skip_to_now(pg, counter=70)
        assert counter == 72

    async def test_starting_over_is_a_new_generation_as_well(self, pg: Any) -> None:
        await adopt_database(pg)
        first = await identity(pg)
        before = await load_position(pg)
        await start_over(pg, counter=40)
        after = await load_position(pg)
        assert (await identity(pg)).generation != first.generation
        assert (after.counter, after.snapshot != before.snapshot) == (41, True)
