"""listeners.together: many questions, few round trips."""

import asyncio
from collections.abc import Sequence

import pytest

from listeners.errors import Unavailable
from listeners.together import AT_ONCE, ROUND_TRIPS, Together


class Server:
    """Answers a number by its double, once it may."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None

    async def ask(self, numbers: Sequence[int]) -> list[int]:
        self.asked.append(list(numbers))
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return [2 * number for number in numbers]


@pytest.fixture
async def server() -> Server:
    return Server()


async def test_those_of_one_turn_go_together(server: Server) -> None:
    together = Together(server.ask)
    assert await asyncio.gather(*map(together.answer, range(5))) == [0, 2, 4, 6, 8]
    assert server.asked == [[0, 1, 2, 3, 4]]


async def test_so_do_those_that_come_while_others_are_on_their_way(server: Server) -> None:
    together = Together(server.ask)
    server.gate.clear()
    first = []
    for number in range(ROUND_TRIPS):
        first.append(asyncio.create_task(together.answer(number)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    later = [asyncio.create_task(together.answer(10 + number)) for number in range(5)]
    await asyncio.sleep(0)
    server.gate.set()
    assert await asyncio.gather(*later) == [20, 22, 24, 26, 28]
    assert await asyncio.gather(*first) == [2 * number for number in range(ROUND_TRIPS)]
    assert len(server.asked) == ROUND_TRIPS + 1


async def test_no_round_trip_is_too_large(server: Server) -> None:
    together = Together(server.ask)
    wanted = 3 * AT_ONCE + 1
    assert await asyncio.gather(*map(together.answer, range(wanted))) == [2 * n for n in range(wanted)]
    assert [len(numbers) for numbers in server.asked] == [AT_ONCE, AT_ONCE, AT_ONCE, 1]


async def test_who_is_cancelled_is_not_asked_for_and_leaves_the_others_alone(server: Server) -> None:
    together = Together(server.ask)
    tasks = [asyncio.create_task(together.answer(number)) for number in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    assert [await tasks[0], await tasks[2]] == [0, 4]
    assert server.asked == [[0, 2]]


async def test_a_failure_is_everybodys_and_the_next_round_trip_is_tried(server: Server) -> None:
    together = Together(server.ask)
    server.failure = Unavailable("gone")
    answers = await asyncio.gather(*map(together.answer, range(2 * AT_ONCE)), return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers)
    assert len(server.asked) <= ROUND_TRIPS
    server.failure = None
    assert await together.answer(4) == 8


async def test_nothing_stays_behind(server: Server) -> None:
    together = Together(server.ask)
    await together.answer(1)
    await asyncio.sleep(0)
    assert not together._asking


async def test_who_asks_again_in_the_turn_in_which_all_have_ended_is_heard(server: Server) -> None:
    together = Together(server.ask)

    async def twice() -> int:
        await together.answer(1)
        return int(await together.answer(2))

    server.gate.clear()
    asking: list[asyncio.Task[int]] = []
    for question in [twice(), *(together.answer(9) for _ in range(ROUND_TRIPS - 1))]:
        asking.append(asyncio.create_task(question))
        for _ in range(3):  # the question, the round trip's task, the server
            await asyncio.sleep(0)
    assert len(server.asked) == ROUND_TRIPS
    server.gate.set()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*asking) == [4, *[18] * (ROUND_TRIPS - 1)]
