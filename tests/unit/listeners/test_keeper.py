import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from listeners import keeper as module
from listeners.errors import Unavailable
from listeners.keeper import Keeper
from listeners.link_watch import Asking
from listeners.relay_state import RelaySettings, RelayStatistics
from tests.support.waiting import eventually

SETTINGS = RelaySettings(canary_ms=10, save_ms=5, seen_ms=10, truncate_ms=10, probe_timeout_ms=60)


class Link:
    """The keeper's connection: `dead` answers nothing."""

    def __init__(self) -> None:
        self.dead = False

    async def answer(self, *_: Any, timeout: float | None = None, **__: Any) -> int:
        async with asyncio.timeout(timeout):
            if self.dead:
                await asyncio.Event().wait()
        return 1

    fetchval = answer


def fake(**fields: Any) -> Any:
    return SimpleNamespace(**fields)


class World:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.link = Link()
        self.songs = 0
        self.slow_leaves = False
        self.statistics = RelayStatistics()
        self.reign = fake(
            asking=Asking(),
            done="1:1:",
            moved=False,
            acknowledged=None,
            last_id=0,
            wakeup=fake(nudge=lambda: None),
        )
        self.mandate = fake(since="1:1:", term=1, notify=True, identity=fake(redis=""))
        monkeypatch.setattr(module, "relay_seen", self.link.answer)
        monkeypatch.setattr(module, "sing", self._sing)
        monkeypatch.setattr(module, "empty_old_leaves", self._empty)
        monkeypatch.setattr(Keeper, "_check", lambda _: self.link.answer())
        store: Any = None
        self.keeper = Keeper(self.mandate, self.reign, self.link, store, SETTINGS, self.statistics)

    async def _sing(self, connection: Link, **_: Any) -> None:
        await connection.answer()
        self.songs += 1

    async def _empty(self, connection: Link) -> list[str]:
        await connection.answer()
        if self.slow_leaves:
            await asyncio.Event().wait()
        return ["change_log_0"]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


async def test_a_link_that_dies_ends_the_reign(world: World) -> None:
    async with asyncio.timeout(2):
        running = asyncio.create_task(world.keeper.run())
        await eventually(lambda: world.songs > 1)
        world.link.dead = True
        with pytest.raises((Unavailable, TimeoutError)):
            await running


async def test_leaves_that_take_long_wait_and_the_rest_goes_on(world: World) -> None:
    world.slow_leaves = True
    running = asyncio.create_task(world.keeper.run())
    await eventually(lambda: world.songs > 2)
    assert world.statistics.leaves_emptied == 0
    world.slow_leaves = False
    await eventually(lambda: world.statistics.leaves_emptied > 0)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()


async def test_leaves_over_a_link_that_dies_meanwhile_end_the_reign(world: World) -> None:
    world.slow_leaves = True
    running = asyncio.create_task(world.keeper.run())
    await eventually(lambda: world.songs == 1)
    world.link.dead = True
    async with asyncio.timeout(2):
        with pytest.raises(Unavailable, match="in time"):
            await running


async def test_a_reader_whose_link_is_half_open_ends_the_reign(world: World) -> None:
    class Server(Link):
        async def fetchrow(self, _: str, backend: int) -> dict[str, str]:
            assert backend == 7
            return {"waits_for": "ClientRead", "since": "12:00"}

    world.keeper._connection = Server()
    world.reign.asking.backend = 7
    async with asyncio.timeout(2):
        with world.reign.asking.now(), pytest.raises(Unavailable, match="half-open"):
            await world.keeper.run()
