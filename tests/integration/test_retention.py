from typing import Any

import pytest

from listeners.change_log import save_position
from listeners.postgres import connected
from listeners.retention import LEAVES, clear_leaf, empty_old_leaves


async def slot_ago(pg: Any, hours: int) -> int:
    hour: int = await pg.fetchval("SELECT extract(epoch FROM clock_timestamp())::bigint / 3600")
    return (hour - hours) % LEAVES


async def log_row(connection: Any, slot: int) -> None:
    await connection.execute(
        "INSERT INTO gateway.change_log (slot, source, op) VALUES ($1, 'none', 'U')", slot
    )


async def rows(pg: Any) -> dict[int, int]:
    """By slot."""
    return dict(await pg.fetch("SELECT slot, count(*) FROM gateway.change_log GROUP BY slot"))


async def save_now(pg: Any) -> str:
    snapshot: str = await pg.fetchval("SELECT pg_current_snapshot()::text")
    await save_position(pg, snapshot)
    return snapshot


@pytest.fixture(autouse=True)
async def empty_log(pg: Any) -> None:
    await pg.execute("TRUNCATE gateway.change_log")


class TestOldLeaves:
    async def test_are_emptied_once_they_were_read(self, pg: Any) -> None:
        old = [await slot_ago(pg, hours) for hours in (2, 5, 7)]
        for slot in old:
            await log_row(pg, slot)
        await save_now(pg)
        assert sorted(await empty_old_leaves(pg)) == sorted(f"change_log_{slot}" for slot in old)
        assert await rows(pg) == {}
        assert await empty_old_leaves(pg) == [], "nothing is left to do"

    async def test_stay_while_a_row_was_not_read(self, pg: Any) -> None:
        old = await slot_ago(pg, 3)
        await log_row(pg, old)
        await save_now(pg)
        await log_row(pg, old)
        assert await empty_old_leaves(pg) == []
        assert await rows(pg) == {old: 2}

    async def test_stay_before_any_position_was_saved(self, pg: Any) -> None:
        await log_row(pg, await slot_ago(pg, 3))
        assert await empty_old_leaves(pg) == []


async def test_leaves_of_this_hour_and_the_last_stay(pg: Any) -> None:
    for hours in (0, 1):
        await log_row(pg, await slot_ago(pg, hours))
    await save_now(pg)
    assert await empty_old_leaves(pg) == []


class TestAnOpenWriter:
    async def test_is_not_waited_for_and_does_not_wait(self, database_url: str, pg: Any) -> None:
        old, other = await slot_ago(pg, 3), await slot_ago(pg, 4)
        await log_row(pg, old)
        await log_row(pg, other)
        async with connected(database_url, purpose="test writer") as writer:
            async with writer.transaction():
                await log_row(writer, old)
                await save_now(pg)
                assert await empty_old_leaves(pg) == [f"change_log_{other}"]
                await log_row(writer, other)  # at once: nobody queues for a lock of the leaf
            assert await rows(pg) == {old: 2, other: 1}

    async def test_that_comes_between_the_looks_is_seen_under_the_lock(self, pg: Any) -> None:
        old = await slot_ago(pg, 3)
        position = await save_now(pg)
        await log_row(pg, old)
        assert not await clear_leaf(pg, f"change_log_{old}", position)
        assert await rows(pg) == {old: 1}

    async def test_whose_transaction_was_open_at_the_position_keeps_its_leaf(
        self, database_url: str, pg: Any
    ) -> None:
        old = await slot_ago(pg, 3)
        async with connected(database_url, purpose="test writer") as writer:
            async with writer.transaction():
                await log_row(writer, old)
                await pg.execute("UPDATE gateway.control SET notify = notify")  # a younger xid, committed
                position = await save_now(pg)
            assert not await clear_leaf(pg, f"change_log_{old}", position)
        assert await rows(pg) == {old: 1}


async def test_a_leaf_that_somebody_has_locked_is_left_alone(database_url: str, pg: Any) -> None:
    old = await slot_ago(pg, 3)
    await log_row(pg, old)
    await save_now(pg)
    async with connected(database_url, purpose="test reader") as reader, reader.transaction():
        await reader.execute("SELECT FROM gateway.change_log")
        assert await empty_old_leaves(pg) == []
    assert await empty_old_leaves(pg) == [f"change_log_{old}"]
