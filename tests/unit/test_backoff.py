import pytest

from listeners.backoff import Backoff


def lowest() -> float:
    return 0.9999999


def highest() -> float:
    return 0.0


class TestDelays:
    def test_the_ceiling_doubles_up_to_the_cap(self) -> None:
        backoff = Backoff(0.1, 1.0, random=highest)
        assert [backoff.next() for _ in range(6)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])

    def test_the_whole_range_below_the_ceiling_is_used(self) -> None:
        backoff = Backoff(0.1, 1.0, random=iter([0.5, 0.25, 0.75]).__next__)
        assert [backoff.next() for _ in range(3)] == pytest.approx([0.05, 0.15, 0.1])

    def test_a_delay_is_never_zero(self) -> None:
        backoff = Backoff(0.1, 1.0, random=lowest)
        assert [backoff.next() for _ in range(5)] == pytest.approx([0.001, 0.002, 0.004, 0.008, 0.01])

    def test_an_outage_of_days_does_not_overflow(self) -> None:
        backoff = Backoff(0.1, 5.0, random=highest)
        delays = [backoff.next() for _ in range(5000)]
        assert delays[-1] == 5.0
        assert backoff.attempt == 5000

    def test_the_defaults_stay_within_five_seconds(self) -> None:
        backoff = Backoff()
        assert all(0 < backoff.next() <= 5.0 for _ in range(200))


class TestReset:
    def test_attempts_are_counted_and_forgotten_on_success(self) -> None:
        backoff = Backoff(0.1, 1.0, random=highest)
        backoff.next()
        backoff.next()
        assert backoff.attempt == 2
        backoff.reset()
        assert backoff.attempt == 0
        assert backoff.next() == pytest.approx(0.1)


@pytest.mark.parametrize(("base_s", "cap_s"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0)])
def test_a_senseless_range_is_refused(base_s: float, cap_s: float) -> None:
    with pytest.raises(ValueError, match="0 < base_s <= cap_s"):
        Backoff(base_s, cap_s)
