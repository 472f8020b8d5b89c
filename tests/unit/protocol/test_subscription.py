from itertools import product

import pytest

from protocol.principal import View
from protocol.subscription import TRANSITIONS, IllegalTransition, Signal, Subscription, SubscriptionState

S = SubscriptionState
ALL = list(product(SubscriptionState, Signal))
ILLEGAL = [pair for pair in ALL if pair not in TRANSITIONS]


def in_state(state: SubscriptionState) -> Subscription:
    subscription = Subscription("product:A", "s1", View.EXACT)
    subscription.state = state
    return subscription


class TestTransitions:
    @pytest.mark.parametrize(("state", "signal"), TRANSITIONS)
    def test_the_table_is_followed(self, state: SubscriptionState, signal: Signal) -> None:
        subscription = in_state(state)
        subscription.signal(signal)
        assert subscription.state is TRANSITIONS[state, signal]

    @pytest.mark.parametrize(("state", "signal"), ILLEGAL)
    def test_a_missing_key_is_the_error(self, state: SubscriptionState, signal: Signal) -> None:
        subscription = in_state(state)
        with pytest.raises(IllegalTransition, match=signal.name):
            subscription.signal(signal)
        assert subscription.state is state

    def test_live_is_reached_by_a_whole_snapshot_or_by_resuming_only(self) -> None:
        ways = {pair for pair, state in TRANSITIONS.items() if state is S.LIVE}
        assert ways == {(S.SENDING, Signal.SNAPSHOT_ENDS), (S.WAITING, Signal.RESUMED)}

    def test_closed_is_the_end(self) -> None:
        assert not [pair for pair in TRANSITIONS if pair[0] is S.CLOSED]

    @pytest.mark.parametrize("state", [S.WAITING, S.SENDING, S.LIVE])
    def test_every_other_state_can_be_left_and_begun_again(self, state: SubscriptionState) -> None:
        assert TRANSITIONS[state, Signal.LEFT] is S.CLOSED
        assert TRANSITIONS[state, Signal.REFUSED] is S.CLOSED
        assert TRANSITIONS[state, Signal.RESTART] is S.WAITING


class TestSubscription:
    def test_begins_waiting_with_nothing_sent(self) -> None:
        new = Subscription("product:A", None, View.PUBLIC)
        assert (new.state, new.epoch, new.seq) == (S.WAITING, "", 0)
        assert repr(new) == "<Subscription product:A public WAITING :0>"

    def test_is_one_of_its_own(self) -> None:
        assert in_state(S.LIVE) != in_state(S.LIVE)

    def test_is_small(self) -> None:
        assert not hasattr(in_state(S.LIVE), "__dict__")
