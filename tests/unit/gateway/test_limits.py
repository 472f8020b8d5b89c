import pytest

from gateway.limits import Loads, MessageLimit, TokenBucket


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class TestTokenBucket:
    def test_a_burst_is_let_through_and_then_the_rate(self, clock: Clock) -> None:
        bucket = TokenBucket(10, 3, clock=clock)
        assert [bucket.take() for _ in range(3)] == [0, 0, 0]
        assert bucket.take() == pytest.approx(0.1)
        clock.now += 0.1
        assert bucket.take() == 0
        assert bucket.take() > 0

    def test_a_refusal_takes_nothing(self, clock: Clock) -> None:
        bucket = TokenBucket(1, 1, clock=clock)
        bucket.take()
        assert [bucket.take() for _ in range(5)] == [1.0] * 5

    def test_it_never_holds_more_than_the_burst(self, clock: Clock) -> None:
        bucket = TokenBucket(10, 2, clock=clock)
        clock.now += 3600
        assert [bucket.take() for _ in range(2)] == [0, 0]
        assert bucket.take() > 0

    def test_the_burst_is_ten_seconds_worth_by_default(self, clock: Clock) -> None:
        bucket = TokenBucket(5, clock=clock)
        assert sum(bucket.take() == 0 for _ in range(100)) == 50

    def test_zero_stands_for_no_limit(self, clock: Clock) -> None:
        bucket = TokenBucket(0, clock=clock)
        assert all(bucket.take(10**9) == 0 for _ in range(1000))

    def test_more_than_a_burst_waits_for_a_full_bucket_and_is_paid_back(self, clock: Clock) -> None:
        bucket = TokenBucket(10, 20, clock=clock)
        assert bucket.take(50) == 0
        assert bucket.take() == pytest.approx(3.1)
        clock.now += 3.1
        assert bucket.take() == 0

    def test_it_knows_when_it_is_as_good_as_new(self, clock: Clock) -> None:
        bucket = TokenBucket(10, 10, clock=clock)
        assert bucket.is_full()
        bucket.take()
        assert not bucket.is_full()
        clock.now += 0.1
        assert bucket.is_full()


class TestMessageLimit:
    def test_more_strikes_than_messages_a_second_are_too_many(self, clock: Clock) -> None:
        limit = MessageLimit(3, clock=clock)
        assert [limit.strike() for _ in range(5)] == [False, False, False, True, True]

    def test_a_pause_of_ten_seconds_forgives_them(self, clock: Clock) -> None:
        limit = MessageLimit(3, clock=clock)
        for _ in range(3):
            limit.strike()
        clock.now += 9.9
        assert limit.strike()
        clock.now += 10.1
        assert not limit.strike()

    def test_it_is_a_bucket_of_ten_seconds_worth(self, clock: Clock) -> None:
        limit = MessageLimit(3, clock=clock)
        assert [limit.take() for _ in range(31)] == [0] * 30 + [pytest.approx(1 / 3)]


class TestOwing:
    def test_it_is_taken_whatever_is_there(self, clock: Clock) -> None:
        bucket = TokenBucket(1, 10, clock=clock)
        bucket.owe(25)
        assert bucket.take(0) == 15
        clock.now += 15
        assert bucket.take(0) == 0
        assert bucket.take(1) == 1

    def test_three_bursts_at_the_most(self, clock: Clock) -> None:
        bucket = TokenBucket(1, 10, clock=clock)
        bucket.owe(1e12)
        assert bucket.take(0) == 30


class TestLoads:
    def test_so_many_for_each(self) -> None:
        loads = Loads(2)
        assert loads.begin("a", "one")
        assert loads.begin("b", "one")
        assert not loads.begin("c", "one")
        assert loads.begin("c", "another")
        loads.end("a")
        assert loads.begin("d", "one")

    def test_what_has_ended_is_forgotten(self) -> None:
        loads = Loads(1)
        for _ in range(3):
            assert loads.begin("a", "one")
            loads.end("a")
            loads.end("a")
        assert not loads._counts
        assert not loads._holders

    def test_without_a_limit_nothing_is_remembered(self) -> None:
        loads = Loads(0)
        assert all(loads.begin(f"{n}", "one") for n in range(100))
        loads.end("1")
        assert not loads._holders
