import asyncio
from typing import cast

from gateway.waiting import Waiting
from tests.support.waiting import eventually


def transport() -> asyncio.Transport:
    return cast("asyncio.Transport", object())


class TestWaiting:
    async def test_the_longest_waiting_goes_first_when_there_are_too_many(self) -> None:
        dropped: list[asyncio.Transport] = []
        waiting = Waiting(dropped.append, limit=2, timeout_s=60)
        one, two, three, four = (transport() for _ in range(4))
        for each in (one, two, three):
            waiting.add(each)
        assert dropped == [one]
        waiting.discard(two)
        waiting.add(four)
        assert dropped == [one]
        assert (len(waiting), three in waiting, one in waiting) == (2, True, False)
        assert (waiting.crowded_out, waiting.timed_out) == (1, 0)
        waiting.drop_all()
        assert dropped == [one, three, four]

    async def test_without_a_limit_there_may_be_any_number(self) -> None:
        dropped: list[asyncio.Transport] = []
        waiting = Waiting(dropped.append, limit=0, timeout_s=60)
        for _ in range(100):
            waiting.add(transport())
        assert (len(waiting), dropped) == (100, [])
        waiting.drop_all()
        assert len(dropped) == 100

    async def test_each_is_dropped_when_its_time_is_over(self) -> None:
        loop = asyncio.get_running_loop()
        dropped: dict[asyncio.Transport, float] = {}
        waiting: Waiting[asyncio.Transport] = Waiting(
            lambda each: dropped.update({each: loop.time()}), limit=0, timeout_s=0.1
        )
        began = loop.time()
        first, gone, second = (transport() for _ in range(3))
        waiting.add(first)
        waiting.add(gone)
        await asyncio.sleep(0.05)
        waiting.add(second)
        waiting.discard(gone)
        await eventually(lambda: len(dropped) == 2, timeout_s=5)
        assert list(dropped) == [first, second]
        assert dropped[first] - began >= 0.099
        assert dropped[second] - began >= 0.149
        assert waiting.timed_out == 2
        waiting.add(gone)  # the timer is set anew
        await eventually(lambda: gone in dropped, timeout_s=5)
