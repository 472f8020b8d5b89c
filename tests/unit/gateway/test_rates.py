"""gateway.rates: the limit of a process, and the one that all share."""

import asyncio
import time
from collections.abc import Callable
from functools import partial

import pytest

from gateway.addresses import network_of
from gateway.rates import RateKind, RateLimit, Rates, holder
from protocol.errors import ErrorCode, ProtocolError
from protocol.principal import Principal
from tests.support.rates import SharedCounts
from tests.support.waiting import eventually

HTTP, ROWS = RateKind.HTTP, RateKind.ROWS
AWAY = ProtocolError(ErrorCode.UNAVAILABLE, "gone")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Stand:
    """Rates with a clock that stands, and the answers that came."""

    def __init__(self, *, shared: bool = True, **bounds: int) -> None:
        self.clock = Clock()
        self.shared = SharedCounts()
        limits = {HTTP: RateLimit(1, 3), ROWS: RateLimit(10, 100), RateKind.AUTH: RateLimit(0, 0)}
        self.rates = Rates(
            limits, self.shared if shared else None, clock=self.clock, random=lambda: 0.5, **bounds
        )
        self.answers: list[float] = []

    async def take(self, who: str = "A", kind: RateKind = HTTP, cost: float = 1) -> float:
        """The answer, after all that follows from the question."""
        self.rates.take(kind, who, self.answers.append, cost=cost)
        await turns()
        return self.answers[-1]

    def counts(self, name: str, kind: RateKind = HTTP) -> float:
        reading = self.rates.statistics()[f"gateway_rate_{name}"]
        return reading if isinstance(reading, float) else reading[kind]


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class TestTake:
    async def test_passes_with_redis_consent(self) -> None:
        stand = Stand()
        assert await stand.take() == 0
        ((kind, who, cost, owed),) = stand.shared.asked
        assert (kind, len(who), cost, owed) == ("http", 32, 1, False)
        assert (stand.counts("passed"), stand.counts("refused"), stand.counts("unshared")) == (1, 0, 0)

    async def test_waits_for_its_answer(self) -> None:
        stand = Stand()
        stand.shared.answer = None
        stand.rates.take(HTTP, "A", stand.answers.append)
        await turns()
        assert stand.answers == []
        stand.shared.futures[0].set_result(2.5)
        await turns()
        assert stand.answers == [2.5]

    async def test_a_denial_is_repeated_without_a_round_trip_until_its_time(self) -> None:
        stand = Stand()
        stand.shared.answer = 2.0
        assert await stand.take() == 2.0
        stand.clock.now += 0.5
        assert await stand.take() == 1.5
        assert len(stand.shared.asked) == 1
        assert stand.counts("refused") == 2
        stand.clock.now += 1.6
        stand.shared.answer = 0.0
        assert await stand.take() == 0
        assert len(stand.shared.asked) == 2

    async def test_nor_needs_one_who_takes_too_much_of_this_process_alone(self) -> None:
        stand = Stand()
        assert [await stand.take() for _ in range(4)] == [0, 0, 0, 1.0]
        assert len(stand.shared.asked) == 3

    async def test_everybody_and_every_kind_on_its_own(self) -> None:
        stand = Stand()
        stand.shared.answer = 9.0
        assert await stand.take("A") == 9
        stand.shared.answer = 0.0
        assert await stand.take("B") == 0
        assert await stand.take("A", ROWS) == 0

    async def test_without_a_limit_nobody_is_asked_or_remembered(self) -> None:
        stand = Stand()
        for kind in (RateKind.AUTH, RateKind.TICKETS):
            assert await stand.take(kind=kind, cost=1e9) == 0
            stand.rates.charge(kind, "A", 1e9)
            assert stand.rates.wait_s(kind, "A") == 0
            assert stand.rates.take_nowait(kind, "A") == 0
        await turns()
        assert stand.shared.asked == []
        assert len(stand.rates._held) == 0
        assert set(stand.rates.limited) == {HTTP, ROWS}

    async def test_a_process_without_others_asks_nobody(self) -> None:
        stand = Stand(shared=False)
        assert [await stand.take() for _ in range(4)] == [0, 0, 0, 1.0]
        stand.rates.charge(ROWS, "A", 1)
        await turns()
        assert (stand.counts("unshared"), stand.counts("limits_alone")) == (0, 0)


class TestCharge:
    async def test_is_taken_whatever_is_left_and_the_next_one_waits(self) -> None:
        stand = Stand()
        assert stand.rates.wait_s(ROWS, "A") == 0
        stand.rates.charge(ROWS, "A", 150)
        assert stand.rates.wait_s(ROWS, "A") == 5
        stand.clock.now += 5
        assert stand.rates.wait_s(ROWS, "A") == 0
        assert (stand.counts("passed", ROWS), stand.counts("refused", ROWS)) == (2, 1)

    async def test_of_one_turn_is_one_question_for_each_holder(self) -> None:
        stand = Stand()
        for n in range(100):
            stand.rates.charge(ROWS, f"{n % 2}", 1)
        await turns()
        assert [(kind, cost, owed) for kind, _, cost, owed in stand.shared.asked] == [("rows", 50, True)] * 2

    async def test_is_gathered_for_a_while(self) -> None:
        shared = SharedCounts()
        rates = Rates({ROWS: RateLimit(10, 100)}, shared, settle_s=60)
        for cost in (1, 2):
            rates.charge(ROWS, "A", cost)
            await turns()
        assert shared.asked == []
        rates._settle()
        assert [cost for _, _, cost, _ in shared.asked] == [3]

    async def test_is_told_after_that_while(self) -> None:
        shared = SharedCounts()
        Rates({ROWS: RateLimit(10, 100)}, shared, settle_s=0.001).charge(ROWS, "A", 1)
        await eventually(lambda: len(shared.asked) == 1)

    async def test_is_forgotten_at_the_end(self) -> None:
        shared = SharedCounts()
        rates = Rates({ROWS: RateLimit(10, 100)}, shared)
        rates.charge(ROWS, "A", 1)
        rates.close()
        rates.charge(ROWS, "A", 2)
        await turns()
        assert shared.asked == []

    async def test_says_what_others_have_used(self) -> None:
        stand = Stand()
        stand.shared.answer = 4.0
        stand.rates.charge(ROWS, "A", 1)
        await turns()
        assert stand.rates.wait_s(ROWS, "A") == 4.0
        stand.rates.charge(ROWS, "A", 1)  # of one that was under way
        assert stand.rates.wait_s(ROWS, "A") == 4.0

    async def test_nobody_owes_more_than_three_bursts(self) -> None:
        stand = Stand()
        stand.rates.charge(ROWS, "A", 1e9)
        assert stand.rates.wait_s(ROWS, "A") == 30


class TestRedisAway:
    async def test_this_process_decides_alone_and_says_so(self) -> None:
        stand = Stand()
        stand.shared.answer = AWAY
        assert [await stand.take() for _ in range(4)] == [0, 0, 0, 1.0]
        assert len(stand.shared.asked) == 1
        assert (stand.counts("unshared"), stand.counts("limits_alone")) == (4, 1)

    async def test_it_is_asked_again_after_a_while_and_nobody_waits_for_that(self) -> None:
        stand = Stand()
        stand.shared.answer = AWAY
        await stand.take("A")
        stand.clock.now += 1.01
        stand.shared.answer = None
        assert [await stand.take(f"{n}") for n in range(3)] == [0, 0, 0]
        assert len(stand.shared.asked) == 2
        assert stand.shared.asked[1][3]  # it is owed
        stand.shared.futures[1].set_result(0.0)
        await turns()
        assert stand.counts("limits_alone") == 0
        stand.shared.answer = 0.0
        await stand.take("E")
        assert (len(stand.shared.asked), stand.counts("unshared")) == (3, 4)

    async def test_as_long_as_it_is_away_it_is_not_asked_more_often(self) -> None:
        stand = Stand()
        stand.shared.answer = AWAY
        for n in range(40):
            await stand.take(f"{n}")
            stand.clock.now += 0.1
        assert len(stand.shared.asked) == 4
        stand.rates.charge(ROWS, "A", 1)
        await turns()
        assert len(stand.shared.asked) <= 5

    async def test_a_mistake_of_ours_is_no_reason_to_refuse(self, capsys: pytest.CaptureFixture[str]) -> None:
        stand = Stand()
        stand.shared.answer = ValueError("what")
        assert await stand.take() == 0
        assert stand.counts("limits_alone") == 1

    async def test_what_it_has_asked_for_is_answered_at_the_end_of_the_loop(self) -> None:
        stand = Stand()
        stand.shared.answer = None
        stand.rates.take(HTTP, "A", stand.answers.append)
        stand.shared.futures[0].cancel()
        await turns()
        assert stand.answers == [0.0]

    async def test_at_the_end_nobody_waits_and_nobody_is_asked(self) -> None:
        stand = Stand()
        stand.shared.answer = None
        stand.rates.take(HTTP, "A", stand.answers.append)
        stand.rates.charge(ROWS, "A", 1)
        stand.rates.close()
        assert stand.answers == [0.0]
        assert await stand.take("B") == 0
        stand.rates.charge(ROWS, "B", 1)
        await turns()
        assert len(stand.shared.asked) == 1
        assert stand.rates._timer is None

    async def test_more_than_can_be_on_their_way_do_not_wait(self) -> None:
        stand = Stand(most_pending=2)
        stand.shared.answer = None
        for n in range(3):
            stand.rates.take(HTTP, f"{n}", stand.answers.append)
        await turns()
        assert stand.answers == [0.0]
        assert (stand.counts("unshared"), stand.counts("limits_alone")) == (1, 0)
        assert len(stand.shared.asked) == 2


class TestRedisSlow:
    """With the real clock: nobody waits longer than the timeout."""

    @pytest.fixture
    async def shared(self) -> SharedCounts:
        shared = SharedCounts()
        shared.answer = None
        return shared

    async def waited(self, ask: Callable[[Callable[[float], None]], None]) -> tuple[float, float]:
        """The answer, and the seconds it took."""
        loop = asyncio.get_running_loop()
        begun, answered = loop.time(), loop.create_future()
        ask(answered.set_result)
        async with asyncio.timeout(5):
            answer = await answered
        return answer, loop.time() - begun

    async def test_all_who_wait_are_answered(self, shared: SharedCounts) -> None:
        rates = Rates({HTTP: RateLimit(1, 3)}, shared, timeout_s=0.1)
        others: list[float] = []
        for n in range(10):
            rates.take(HTTP, f"{n}", others.append)
        answer, took_s = await self.waited(partial(rates.take, HTTP, "A"))
        assert (answer, others) == (0.0, [0.0] * 10)
        assert 0.05 <= took_s < 2
        assert rates.statistics()["gateway_rate_unshared"] == {HTTP: 11}
        assert all(future.cancelled() for future in shared.futures)
        answer, took_s = await self.waited(partial(rates.take, HTTP, "B"))
        assert answer == 0
        assert took_s < 0.05

    async def test_a_process_that_was_late_itself_looks_again(self, shared: SharedCounts) -> None:
        """The answer may be here, and not read yet."""
        answers: list[float] = []
        rates = Rates({HTTP: RateLimit(1, 3)}, shared, timeout_s=0.1)
        rates.take(HTTP, "A", answers.append)
        time.sleep(0.2)  # noqa: ASYNC251 - that nothing happens meanwhile is the point
        asyncio.get_running_loop().call_later(0.001, shared.futures[0].set_result, 2.0)
        await eventually(lambda: answers == [2.0])

    async def test_but_not_for_ever(self, shared: SharedCounts) -> None:
        answers: list[float] = []
        rates = Rates({HTTP: RateLimit(1, 3)}, shared, timeout_s=0.1)
        rates.take(HTTP, "A", answers.append)
        time.sleep(0.2)  # noqa: ASYNC251 - as above
        await eventually(lambda: answers == [0.0])
        assert shared.futures[0].cancelled()

    async def test_who_has_come_later_has_the_whole_time(self, shared: SharedCounts) -> None:
        rates = Rates({HTTP: RateLimit(1, 3)}, shared, timeout_s=0.2)
        rates.take(HTTP, "A", lambda _: None)
        await asyncio.sleep(0.1)
        later = asyncio.create_task(self.waited(partial(rates.take, HTTP, "B")))
        await asyncio.sleep(0)
        shared.futures[0].set_result(0.0)
        answer, took_s = await later
        assert answer == 0
        assert took_s >= 0.15


class TestHolder:
    @pytest.mark.parametrize(
        ("address", "network"),
        [
            ("203.0.113.7", "203.0.113.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("fe80::1%eth0", "fe80::/64"),
            ("", ""),
            ("what:ever", "what:ever"),
        ],
    )
    def test_networks(self, address: str, network: str) -> None:
        assert network_of(address) == network

    def test_a_subject_is_itself_wherever_it_comes_from(self) -> None:
        principal = Principal("till-1", frozenset(), expires_at=2e9)
        assert holder(principal, "203.0.113.7") == holder(principal, "203.0.113.8") == "subject till-1"

    def test_who_has_no_credentials_is_told_by_the_network(self) -> None:
        anonymous = Principal.anonymous(exact=False)
        assert holder(anonymous, "203.0.113.7") == holder(None, "203.0.113.7") == "address 203.0.113.7"

    async def test_memory_is_bounded(self) -> None:
        stand = Stand(most_held=10)
        for n in range(100):
            await stand.take(f"{n}" * 1000)
        assert len(stand.rates._held) <= 10
