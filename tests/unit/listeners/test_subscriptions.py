"""What the bus wants, asks for and is told, without a server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listeners.bus import Subscriptions, UnexpectedConfirmation


def linked(*wanted: str) -> Subscriptions:
    subscriptions = Subscriptions(wanted)
    subscriptions.begin_link()
    return subscriptions


def test_a_new_link_asks_for_everything_that_is_wanted() -> None:
    subscriptions = linked("a", "b")
    assert subscriptions.take() == (["a", "b"], [])
    assert subscriptions.take() == ([], [])
    before = subscriptions.complete
    subscriptions.confirm("a", subscribed=True)
    subscriptions.confirm("b", subscribed=True)
    assert (before, subscriptions.complete) == (False, True)
    subscriptions.begin_link()
    assert subscriptions.confirmed == set()
    assert subscriptions.take() == (["a", "b"], [])


def test_what_cancels_out_is_not_asked_for() -> None:
    subscriptions = linked("a")
    subscriptions.take()
    subscriptions.unwant("a")
    subscriptions.want("a")
    subscriptions.want("b")
    subscriptions.unwant("b")
    assert subscriptions.take() == ([], [])


def test_only_the_answer_to_the_last_question_counts() -> None:
    subscriptions = linked("a")
    subscriptions.take()
    subscriptions.unwant("a")
    assert subscriptions.take() == ([], ["a"])
    subscriptions.want("a")
    assert subscriptions.take() == (["a"], [])
    subscriptions.confirm("a", subscribed=True)
    subscriptions.confirm("a", subscribed=False)
    assert subscriptions.confirmed == set()
    subscriptions.confirm("a", subscribed=True)
    assert subscriptions.confirmed == {"a"}


def test_what_is_left_is_not_waited_for() -> None:
    subscriptions = linked("a", "b")
    subscriptions.take()
    subscriptions.confirm("a", subscribed=True)
    subscriptions.unwant("b")
    assert subscriptions.complete


def test_what_comes_later_does_not_delay_completeness() -> None:
    subscriptions = linked("a")
    subscriptions.take()
    subscriptions.want("b")
    subscriptions.take()
    subscriptions.confirm("a", subscribed=True)
    assert subscriptions.complete


@pytest.mark.parametrize("subscribed", [True, False])
def test_an_answer_without_a_question(subscribed: bool) -> None:
    with pytest.raises(UnexpectedConfirmation):
        linked("a").confirm("a", subscribed=subscribed)


def test_the_wrong_answer() -> None:
    subscriptions = linked("a")
    subscriptions.take()
    with pytest.raises(UnexpectedConfirmation):
        subscriptions.confirm("a", subscribed=False)


@given(
    st.lists(
        st.tuples(st.sampled_from(["want", "unwant", "take", "answer", "relink"]), st.sampled_from("abc"))
    )
)
def test_a_faithful_server_ends_up_with_what_is_wanted(steps: list[tuple[str, str]]) -> None:
    subscriptions = linked()
    held: set[str] = set()
    questions: list[tuple[str, bool]] = []

    def take() -> None:
        subscribe, unsubscribe = subscriptions.take()
        questions.extend((channel, False) for channel in unsubscribe)
        questions.extend((channel, True) for channel in subscribe)

    def answer() -> None:
        channel, subscribed = questions.pop(0)
        (held.add if subscribed else held.discard)(channel)
        subscriptions.confirm(channel, subscribed=subscribed)
        assert subscriptions.confirmed <= held

    for step, channel in steps:
        if step == "relink":
            questions.clear()
            held.clear()
            subscriptions.begin_link()
        elif step == "take":
            take()
        elif step == "answer":
            if questions:
                answer()
        else:
            getattr(subscriptions, step)(channel)
    take()
    while questions:
        answer()
    assert subscriptions.confirmed == held == subscriptions.wanted
    assert subscriptions.complete
