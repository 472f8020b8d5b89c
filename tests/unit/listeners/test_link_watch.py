from typing import Any

import pytest

from listeners.errors import Unavailable
from listeners.link_watch import Asking, ReaderWatch

PATIENCE_S = 2.0
BACKEND = 4711


class World:
    """A clock, a link on which we ask, and what the server says of its backend."""

    def __init__(self, backend: int | None = BACKEND) -> None:
        self.now = 0.0
        self.asking = Asking(lambda: self.now)
        self.asking.backend = backend
        self.watch = ReaderWatch(self.asking, patience_s=PATIENCE_S, clock=lambda: self.now)
        self.says: dict[str, str | None] | None = {"waits_for": "DataFileRead", "since": "12:00"}
        self.looks = 0
        self.answered_meanwhile = False

    async def fetchrow(self, query: str, backend: int) -> Any:
        assert backend == BACKEND
        self.looks += 1
        if self.answered_meanwhile:
            self.asking.since = None
        return self.says

    async def look(self, after_s: float = 1.0) -> None:
        self.now += after_s
        await self.watch.look(self)


def idle(since: str = "12:00") -> dict[str, str | None]:
    return {"waits_for": "ClientRead", "since": since}


class TestNothingIsAskedOfTheServer:
    async def test_while_nothing_is_awaited(self) -> None:
        world = World()
        await world.look(60)
        assert world.looks == 0

    async def test_while_the_answer_is_young(self) -> None:
        world = World()
        with world.asking.now():
            await world.look(PATIENCE_S - 0.1)
            assert world.looks == 0
            await world.look(0.2)
            assert world.looks == 1

    async def test_before_the_backend_is_known(self) -> None:
        world = World(backend=None)
        with world.asking.now():
            await world.look(60)
        assert world.looks == 0


class TestALinkIsHalfOpen:
    async def test_when_its_backend_waits_for_us_twice_in_a_row(self) -> None:
        world = World()
        world.says = idle()
        with world.asking.now():
            await world.look(PATIENCE_S)
            with pytest.raises(Unavailable, match="half-open"):
                await world.look()

    async def test_when_its_backend_is_gone(self) -> None:
        world = World()
        world.says = None
        with world.asking.now(), pytest.raises(Unavailable, match="gone"):
            await world.look(PATIENCE_S)

    async def test_that_was_at_work_first(self) -> None:
        world = World()
        with world.asking.now():
            for _ in range(100):
                await world.look()
            world.says = idle()
            await world.look()
            with pytest.raises(Unavailable, match="half-open"):
                await world.look()


class TestALinkIsWell:
    async def test_while_its_backend_works(self) -> None:
        world = World()
        with world.asking.now():
            for _ in range(300):
                await world.look()
        assert world.looks == 299

    async def test_when_another_question_is_awaited_the_second_time(self) -> None:
        world = World()
        world.says = idle()
        for _ in range(5):
            with world.asking.now():
                await world.look(PATIENCE_S)

    async def test_when_the_backend_has_done_something_in_between(self) -> None:
        world = World()
        with world.asking.now():
            world.says = idle()
            await world.look(PATIENCE_S)
            world.says = idle("12:01")
            await world.look()
            world.says = {"waits_for": None, "since": "12:02"}
            await world.look()
            world.says = idle("12:01")
            await world.look()

    async def test_when_the_answer_came_while_the_server_was_asked(self) -> None:
        world = World()
        world.says = None
        world.answered_meanwhile = True
        with world.asking.now():
            await world.look(PATIENCE_S)
        assert world.looks == 1

    async def test_as_far_as_anybody_is_told(self) -> None:
        """Another role's session: a timeout is all there is."""
        world = World()
        world.says = {"waits_for": None, "since": None}
        with world.asking.now():
            for _ in range(5):
                await world.look(PATIENCE_S)


def test_asking_ends_with_its_block() -> None:
    asking = Asking(lambda: 3.0)
    with asking.now():
        assert asking.since == 3.0
    assert asking.since is None
