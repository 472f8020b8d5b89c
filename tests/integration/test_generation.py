from typing import Any

import pytest

from listeners.change_log import load_position, save_position
from listeners.generation import Identity, adopt_database, read_identity, read_system, skip_to_now, start_over
from listeners.postgres import connected


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
        ],
    )
    async def test_changes_when_topics_may_hold_what_is_no_more_or_lack_something(
        self, pg: Any, event: str
    ) -> None:
        await adopt_database(pg)
        first = await identity(pg)
        await pg.execute(event)
        assert (await identity(pg)).generation != first.generation

    async def test_differs_between_databases_of_one_server(self, pg: Any, empty_database_url: str) -> None:
        async with connected(empty_database_url, purpose="test") as other:
            assert await read_system(other) != await read_system(pg)


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
