import random

import pytest

from gateway.sample.pacing import Pacer


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class TestTurns:
    def test_come_at_the_rate(self) -> None:
        clock = Clock()
        pacer = Pacer(10, clock=clock, random=lambda: 0.0)
        assert [pacer.take() for _ in range(4)] == pytest.approx([0, 0.1, 0.2, 0.3])

    def test_of_several_changes_take_several_slots(self) -> None:
        pacer = Pacer(10, clock=Clock(), random=lambda: 0.0)
        assert [pacer.take(3), pacer.take(1)] == pytest.approx([0, 0.3])

    def test_lie_by_chance_within_their_slot(self) -> None:
        pacer = Pacer(10, clock=Clock(), random=lambda: 0.5)
        assert [pacer.take(), pacer.take(2), pacer.take()] == pytest.approx([0.05, 0.2, 0.35])

    def test_that_are_late_are_never_before_now(self) -> None:
        clock = Clock()
        pacer = Pacer(10, clock=clock, random=lambda: 0.0)
        clock.now += 0.5
        assert pacer.take() == 0


class TestTheRate:
    def test_does_not_drift_by_what_each_change_takes(self) -> None:
        clock, chance = Clock(), random.Random(1)
        pacer = Pacer(50, clock=clock, random=chance.random)
        count = 0
        while clock.now < 160:
            # Every timer fires late, and every change takes its time.
            clock.now += pacer.take() + chance.uniform(0.001, 0.015)
            count += 1
        assert count == pytest.approx(50 * 60, rel=0.01)

    def test_an_outage_is_not_made_up_for(self) -> None:
        clock = Clock()
        pacer = Pacer(10, clock=clock, random=lambda: 0.0)
        pacer.take()
        clock.now += 60
        assert [pacer.take() for _ in range(3)] == pytest.approx([0, 0.1, 0.2])

    def test_a_short_delay_is_made_up_for(self) -> None:
        clock = Clock()
        pacer = Pacer(10, clock=clock, random=lambda: 0.0)
        clock.now += 0.35
        assert [pacer.take() for _ in range(5)] == pytest.approx([0, 0, 0, 0, 0.05])

    def test_counts_what_has_happened_and_not_what_was_meant_to(self) -> None:
        pacer = Pacer(10, clock=Clock(), random=lambda: 0.0)
        pacer.take(3)
        pacer.give_back(2)
        assert pacer.take() == pytest.approx(0.1)

    @pytest.mark.parametrize("rate", [0, -1, float("nan")])
    def test_is_above_zero(self, rate: float) -> None:
        with pytest.raises(ValueError, match="above 0"):
            Pacer(rate)
