import random
from itertools import pairwise
from statistics import pstdev

import pytest

from load.pacing import arrivals, counted_arrivals, paced


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class TestArrivals:
    def test_come_at_the_rate(self) -> None:
        moments = list(arrivals(100, 50, rng=random.Random(1)))
        assert len(moments) == pytest.approx(5000, rel=0.05)

    def test_rise_and_stay_within_the_time(self) -> None:
        moments = list(arrivals(100, 5, rng=random.Random(2)))
        assert moments == sorted(moments)
        assert 0 < moments[0] < moments[-1] < 5

    def test_keep_no_step_with_a_period(self) -> None:
        moments = list(arrivals(100, 50, rng=random.Random(3)))
        phases = [moment % 0.01 for moment in moments]
        assert sum(phase < 0.005 for phase in phases) / len(phases) == pytest.approx(0.5, abs=0.05)


class TestCountedArrivals:
    def test_are_so_many_within_the_time(self) -> None:
        moments = counted_arrivals(200, 5, rng=random.Random(4))
        assert len(moments) == 200
        assert moments == sorted(moments)
        assert 0 < moments[0] < moments[-1] < 5

    def test_are_spread_as_by_chance(self) -> None:
        """Between events that know nothing of each other the pauses vary as much as their mean."""
        moments = counted_arrivals(5000, 50, rng=random.Random(5))
        pauses = [later - earlier for earlier, later in pairwise(moments)]
        assert pstdev(pauses) == pytest.approx(0.01, rel=0.1)


class TestPaced:
    async def test_waits_until_each_moment(self) -> None:
        time = Time()
        seen = [(moment, time.now) async for moment in paced([0.5, 2.0], clock=time.clock, sleep=time.sleep)]
        assert seen == [(0.5, 1000.5), (2.0, 1002.0)]

    async def test_makes_up_for_a_delay(self) -> None:
        time = Time()
        seen = []
        async for moment in paced([1.0, 2.0, 3.0, 6.0], clock=time.clock, sleep=time.sleep):
            seen.append((moment, time.now))
            time.now += 2.5 if moment == 1.0 else 0
        assert seen == [(1.0, 1001.0), (2.0, 1003.5), (3.0, 1003.5), (6.0, 1006.0)]
