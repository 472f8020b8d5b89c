"""The table in gateway.standing, row by row."""

import pytest

from gateway.freshness import Freshness
from gateway.standing import Standing

CANARY_S = 1.0
TIMEOUT_S = 2.0


class World:
    """A replica that was fresh at 0 s. Time passes in `tick`: a beat comes, and Postgres is asked."""

    def __init__(self) -> None:
        self.now = 0.0
        self.freshness = Freshness(CANARY_S, wall_ms=0)
        self.standing = Standing(self.freshness, timeout_s=TIMEOUT_S, clock=lambda: self.now)
        self.number = 10
        self.tick()

    def tick(self, seconds: int = 1, *, beats: bool = True, taken: bool = True, answers: bool = True) -> None:
        """`beats`: they arrive here. `taken`: Redis takes them. `answers`: Postgres does."""
        for _ in range(seconds):
            self.now += CANARY_S
            self.number += taken
            if beats:
                self.freshness.beat(round(self.now * 1000), self.now)
            self.freshness.check(self.now)
            self.standing.seen(answers, self.number if answers else None)

    @property
    def reason(self) -> str:
        """What it is cut off from; empty while it is ready."""
        assert self.freshness.was_fresh
        reasons = self.standing.not_ready()
        cut_off = self.standing.statistics()["gateway_cut_off"]
        assert isinstance(cut_off, dict)
        assert sum(cut_off.values()) == len(reasons)
        return reasons[0].partition(":")[0].removeprefix("cut off from ") if reasons else ""


@pytest.fixture
def world() -> World:
    return World()


def test_one_that_was_never_fresh_is_not_ready() -> None:
    standing = Standing(Freshness(CANARY_S, wall_ms=0), timeout_s=TIMEOUT_S)
    assert standing.not_ready() == ["no canary has come from Postgres yet: is a relay running?"]


def test_one_that_is_well_is_ready(world: World) -> None:
    world.tick(20)
    assert world.reason == ""


class TestCutOffFromRedis:
    def test_it_leaves_when_the_trace_moves_while_it_is_stale_and_comes_back_when_fresh(
        self, world: World
    ) -> None:
        world.tick(4, beats=False)
        assert (world.freshness.stale, world.reason) == (True, "")
        world.tick(2, beats=False)
        assert world.reason == "Redis"
        world.tick(30, beats=False)
        assert world.reason == "Redis"
        world.tick()
        assert world.reason == ""

    def test_one_beat_that_was_on_its_way_is_no_proof(self, world: World) -> None:
        world.tick(4, beats=False, taken=False)
        world.tick(1, beats=False)
        world.tick(30, beats=False, taken=False)
        assert world.reason == ""

    def test_what_moved_before_it_was_stale_does_not_count(self, world: World) -> None:
        world.tick(20)
        world.tick(20, beats=False, taken=False)
        assert world.reason == ""

    def test_it_comes_back_when_the_relay_is_cut_off_too(self, world: World) -> None:
        world.tick(8, beats=False)
        world.tick(6, beats=False, taken=False)
        assert world.reason == ""

    def test_each_staleness_is_judged_by_itself(self, world: World) -> None:
        world.tick(8, beats=False)
        world.tick(5)
        world.tick(5, beats=False, taken=False)
        assert (world.freshness.stale, world.reason) == (True, "")

    def test_it_stays_when_it_can_not_know(self, world: World) -> None:
        """Neither server is reached: it looks the same when both are down for everybody."""
        world.tick(30, beats=False, answers=False)
        assert world.reason == ""

    def test_a_number_that_may_not_be_read_is_no_proof(self, world: World) -> None:
        for _ in range(10):
            world.tick(beats=False, taken=False)
            world.standing.seen(True, None)
        assert world.reason == ""


class TestCutOffFromPostgres:
    def test_it_leaves_when_beats_go_on_without_answers_and_comes_back(self, world: World) -> None:
        world.tick(3, answers=False)
        assert world.reason == ""
        world.tick(1, answers=False)
        assert world.reason == "Postgres"
        world.tick()
        assert world.reason == ""

    def test_it_stays_when_postgres_is_down_for_everybody(self, world: World) -> None:
        world.tick(answers=False)  # the last beat was on its way
        for _ in range(30):
            world.tick(beats=False, taken=False, answers=False)
            assert world.reason == ""

    def test_one_answer_that_did_not_come_is_no_proof(self, world: World) -> None:
        """A process that was frozen finds its question unanswered, and the beats of the time since."""
        world.now += 60
        world.freshness.beat(60_000, world.now)
        world.standing.seen(False, None)
        assert world.reason == ""
