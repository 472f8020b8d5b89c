from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from listeners.errors import NoRelay
from listeners.generation import Identity
from listeners.placed_pool import PlacedPool
from listeners.topic_store import Reign

HERE = {"system": "7/5", "timeline": "2", "alive": "a", "losses": "0", "sources": "s", "nonce": "n"}
LEFT = HERE | {"timeline": "1"}
REIGN = Reign(Identity(**HERE, redis="r").generation, 1)


class Connection:
    """Leads to a database of this identity; None: to a standby."""

    def __init__(self, identity: dict[str, str] | None) -> None:
        self.identity = identity

    async def fetchrow(self, _: str) -> dict[str, str]:
        if self.identity is None:
            raise asyncpg.ObjectNotInPrerequisiteStateError("recovery is in progress")
        return self.identity

    async def fetch(self, *asked: Any) -> Any:
        return ["fetched", *asked]

    async def fetchval(self, *asked: Any, timeout: float | None) -> Any:
        return [*asked, timeout]


class Pool:
    """Hands out its connections in turn."""

    def __init__(self, *identities: dict[str, str] | None) -> None:
        self.connections = [Connection(identity) for identity in identities]
        self.expired = 0

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        yield self.connections.pop(0)

    async def expire_connections(self) -> None:
        self.expired += 1


class Store:
    def __init__(self, reign: Reign | None = REIGN) -> None:
        self._reign = reign

    async def reign(self) -> Reign | None:
        return self._reign


async def test_a_connection_to_where_the_relay_reads_is_handed_out() -> None:
    pool = Pool(HERE, HERE, HERE)
    placed = PlacedPool(pool, Store())
    async with placed.acquire() as connection:
        assert connection.identity == HERE
    assert await placed.fetch("q", 1) == ["fetched", "q", 1]
    assert await placed.fetchval("q", 1, timeout=2.0) == ["q", 1, 2.0]
    assert pool.expired == 0


@pytest.mark.parametrize("before", [LEFT, None])
async def test_one_that_leads_elsewhere_is_replaced_and_all_others_with_it(
    before: dict[str, str] | None,
) -> None:
    pool = Pool(before, HERE)
    async with PlacedPool(pool, Store()).acquire() as connection:
        assert connection.identity == HERE
    assert pool.expired == 1


async def test_when_a_new_one_leads_elsewhere_as_well_the_relay_has_yet_to_follow() -> None:
    with pytest.raises(ConnectionError, match="elsewhere"):
        await PlacedPool(Pool(LEFT, LEFT), Store()).fetch("q")


async def test_what_does_not_change_the_place_is_let_through() -> None:
    moved = HERE | {"losses": "1", "sources": "other"}
    assert await PlacedPool(Pool(moved), Store()).fetch("q") == ["fetched", "q"]


async def test_a_relay_of_a_release_that_names_no_place_is_believed() -> None:
    """While a new release is rolled out, one of the old may reign."""
    old = Reign(REIGN.generation[:16], 1)
    assert await PlacedPool(Pool(LEFT), Store(old)).fetch("q") == ["fetched", "q"]


async def test_without_a_reign_nothing_can_be_loaded() -> None:
    with pytest.raises(NoRelay):
        await PlacedPool(Pool(HERE), Store(None)).fetch("q")
