from gateway.freshness import Freshness, Transition

CANARY_S = 1.0


def fresh() -> Freshness:
    """At 0 s, with everything of 1000 ms arrived."""
    freshness = Freshness(CANARY_S, wall_ms=500)
    assert freshness.beat(1000, 0.0) is Transition.FRESH
    return freshness


class TestTheCanary:
    def test_nothing_is_proven_before_the_first_one(self) -> None:
        freshness = Freshness(CANARY_S, wall_ms=500)
        assert freshness.check(0.1) is None
        assert (freshness.stale_since_ms, freshness.was_fresh) == (500, False)

    def test_three_periods_without_it_are_stale_and_the_next_one_is_fresh(self) -> None:
        freshness = fresh()
        assert freshness.check(3.0) is None
        assert freshness.check(3.1) is Transition.STALE
        assert freshness.check(3.2) is None
        assert freshness.stale_since_ms == 1000
        assert freshness.beat(4000, 4.0) is Transition.FRESH
        assert (freshness.as_of_ms, freshness.stale) == (4000, False)


class TestAfterALoss:
    def test_a_canary_proves_nothing_until_the_positions_were_compared(self) -> None:
        freshness = fresh()
        freshness.lost(1.0)
        assert freshness.check(3.5) is Transition.STALE
        freshness.restored()
        assert freshness.beat(4000, 4.0) is None
        assert freshness.as_of_ms == 1000
        assert freshness.verified(freshness.comparing(), 4.1) is Transition.FRESH
        assert freshness.as_of_ms == 4000

    def test_a_comparison_while_the_bus_is_gone_proves_nothing(self) -> None:
        freshness = fresh()
        freshness.lost(1.0)
        comparison = freshness.comparing()
        freshness.restored()
        freshness.verified(comparison, 1.5)
        assert freshness.in_doubt

    def test_nor_does_one_that_began_before_the_loss(self) -> None:
        freshness = fresh()
        comparison = freshness.comparing()
        freshness.lost(1.0)
        freshness.restored()
        freshness.verified(comparison, 1.5)
        assert freshness.in_doubt

    def test_who_can_not_compare_is_stale_though_the_canary_comes(self) -> None:
        freshness = fresh()
        freshness.lost(1.0)
        freshness.restored()
        for second in (2, 3, 4):
            assert freshness.beat(1000 * second, second) is None
        assert freshness.beat(4100, 4.1) is Transition.STALE
        assert freshness.stale_since_ms == 1000

    def test_a_short_loss_that_is_made_up_for_is_told_to_nobody(self) -> None:
        freshness = fresh()
        freshness.lost(1.0)
        freshness.restored()
        assert freshness.beat(2000, 2.0) is None
        assert freshness.verified(freshness.comparing(), 2.1) is None
        assert (freshness.stale, freshness.as_of_ms) == (False, 2000)
