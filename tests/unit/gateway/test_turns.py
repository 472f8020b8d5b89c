import asyncio

import pytest

from gateway.turns import TURN_BYTES, Turns
from tests.support.waiting import eventually

FLOOD = bytes(range(256)) * (3 * TURN_BYTES // 256) + b"end"


class Taker:
    """Takes turns, each of which costs as many seconds of a clock of its own."""

    def __init__(self, data: bytes, *, cost_s: float = 0.0, going_on: bool = True) -> None:
        self.taken: list[bytes] = []
        self.now = 0.0
        self.cost_s = cost_s
        self.going_on = going_on
        self.turns = Turns(data, take=self.take, done=self.done, clock=lambda: self.now)

    def take(self, data: bytes) -> None:
        self.taken.append(data)
        self.now += self.cost_s

    def done(self) -> None:
        if self.going_on and self.turns.unread:
            self.turns.next()


class TestTurns:
    async def test_all_is_taken_in_order_and_a_little_at_a_time(self) -> None:
        taker = Taker(FLOOD)
        taker.turns.next()
        await eventually(lambda: not taker.turns.unread)
        assert b"".join(taker.taken) == FLOOD
        assert [len(data) for data in taker.taken] == [TURN_BYTES] * 3 + [3]

    async def test_others_have_a_turn_in_between(self) -> None:
        taker = Taker(FLOOD)
        taker.turns.next()
        assert taker.taken == []
        await eventually(lambda: taker.taken, interval_s=0)
        assert len(taker.taken) < 4

    async def test_asking_twice_is_one_turn(self) -> None:
        taker = Taker(FLOOD, going_on=False)
        taker.turns.next()
        taker.turns.next()
        await eventually(lambda: taker.taken)
        await asyncio.sleep(0.01)
        assert len(taker.taken) == 1

    async def test_what_comes_meanwhile_is_taken_after_it(self) -> None:
        taker = Taker(FLOOD)
        taker.turns.next()
        taker.turns.unread += b"more"
        await eventually(lambda: not taker.turns.unread)
        assert b"".join(taker.taken) == FLOOD + b"more"

    async def test_no_turn_once_stopped(self) -> None:
        taker = Taker(FLOOD)
        taker.turns.next()
        taker.turns.stop()
        await asyncio.sleep(0.01)
        assert taker.taken == []
        taker.turns.next()
        await eventually(lambda: not taker.turns.unread)

    @pytest.mark.parametrize(("cost_s", "at_least_s"), [(0.0, 0.0), (0.02, 0.06)])
    async def test_the_next_one_waits_three_times_as_long_as_one_took(
        self, cost_s: float, at_least_s: float
    ) -> None:
        loop = asyncio.get_running_loop()
        taker = Taker(FLOOD, cost_s=cost_s)
        taker.turns.next()
        await eventually(lambda: len(taker.taken) == 1, interval_s=0)
        first = loop.time()
        await eventually(lambda: len(taker.taken) == 2, interval_s=0)
        assert loop.time() - first >= at_least_s - 0.002  # timers are of whole ms
