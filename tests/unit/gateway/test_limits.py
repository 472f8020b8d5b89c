import pytest

from gateway.limits import MessageLimit, TokenBucket


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
