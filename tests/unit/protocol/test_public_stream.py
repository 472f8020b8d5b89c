"""What the public is sent is a function of what it can see alone, but for versions and seqs (SECURITY.md)."""

import re
from collections import Counter

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from protocol.items import Item, tombstone
from protocol.public_view import PublicView
from protocol.topics import parse_topic
from tests.support.appearances import DEFAULT_LOW, TOPICS, Twins, twins
from tests.support.replica import product, stock

VERSION = re.compile(rb'"version":\d+')


def said(items: list[Item]) -> bytes:
    return VERSION.sub(b'"version":0', b",".join(item.body for item in items))


def stream(shops: Twins, number: int) -> list[bytes]:
    """A snapshot, and after it whatever there is to be said; of several changes with one look, once."""
    view = PublicView(parse_topic(shops.topic), DEFAULT_LOW)
    view.load(shops.rows[number])
    heard = [said(view.snapshot())]
    for step in shops.steps:
        heard += [said(news) for message in step.messages[number] if (news := view.apply(message))]
    assert said(view.snapshot()) == said(loaded(shops, number).snapshot())
    return heard


def loaded(shops: Twins, number: int) -> PublicView:
    view = PublicView(parse_topic(shops.topic), DEFAULT_LOW)
    view.load(shops.newest(number, len(shops.steps)))
    return view


@pytest.mark.parametrize("topic", TOPICS)
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_shops_that_look_alike_sound_alike(topic: str, data: st.DataObject) -> None:
    shops = data.draw(twins(topic))
    one, other = stream(shops, 0), stream(shops, 1)
    event(f"{min(len(one), 6)} words")
    assert one == other


@pytest.mark.parametrize("topic", TOPICS)
@given(st.data())
@settings(max_examples=50, deadline=None)
def test_and_they_look_as_was_asked_for(topic: str, data: st.DataObject) -> None:
    """The test of the test: the looks are what a snapshot shows."""
    shops = data.draw(twins(topic).filter(lambda drawn: drawn.steps))
    look = shops.steps[-1].look
    items = loaded(shops, 0).snapshot()
    kinds = Counter(item.key.partition(":")[0] for item in items)
    assert kinds["availability"] <= kinds["product"]
    if not topic.startswith("location:"):
        assert kinds["product"] == look.published
        if look.published:
            words = items[-1].body
            assert (b'"only_left":' in words) == bool(look.left)
            assert (b'"out_of_stock"' in words) == (look.left == 0)


def test_the_order_of_a_snapshot_tells_nothing() -> None:
    rows = [product(name, n, status="draft") for n, name in enumerate("CAB", 1)]
    view = PublicView(parse_topic("location:L1"), DEFAULT_LOW)
    view.load([*rows, *(stock(name, 10 + n) for n, name in enumerate("BCA"))])
    view.apply([product(name, 20 + n) for n, name in enumerate("BAC")])
    assert [item.key for item in view.snapshot()] == [
        *("product:A", "product:B", "product:C"),
        *("availability:A:L1", "availability:B:L1", "availability:C:L1"),
    ]


class TestWhatWasNeverThere:
    @pytest.mark.parametrize("topic", TOPICS)
    def test_is_not_taken_away(self, topic: str) -> None:
        view = PublicView(parse_topic(topic), DEFAULT_LOW)
        view.load([product("A", 1, status="draft"), stock("A", 2)])
        assert view.apply([product("A", 3, status="archived"), tombstone("stock:A:L1", 4)]) == []
        assert view.apply([tombstone("product:A", 5)]) == []
        assert view.apply([product("A", 6, status="draft"), stock("A", 7, on_hand=0)]) == []
