import pytest

from gateway.http_source import TopicSnapshots
from gateway.metrics import GatewayMetrics
from protocol.errors import ErrorCode, ProtocolError
from protocol.items import Item
from protocol.principal import View
from protocol.topics import parse_topic
from tests.support.replica import FakeFeed, Opened, product, stock

TOPIC = parse_topic("location:L1")


@pytest.fixture
def feed() -> FakeFeed:
    feed = FakeFeed()
    feed.rows["location:L1"] = [product("A", 1), stock("A", 2, on_hand=3)]
    return feed


def snapshots(feed: FakeFeed, *, max_items: int = 1000) -> TopicSnapshots:
    return TopicSnapshots(feed, GatewayMetrics(), low_stock=5, max_items=max_items)


def versions(items: object) -> dict[str, int]:
    assert isinstance(items, list)
    return {item.key: item.version for item in items if isinstance(item, Item)}


async def test_it_is_held_until_the_topic_moves(feed: FakeFeed) -> None:
    source = snapshots(feed)
    answers = [await source.snapshot(TOPIC, View.EXACT) for _ in range(2)]
    feed.change("location:L1", stock("A", 9))
    answers.append(await source.snapshot(TOPIC, View.EXACT))
    assert [answer.hit for answer in answers] == [False, True, False]
    assert versions(answers[2].items)["stock:A:L1"] == 9


async def test_the_public_sees_words_and_no_numbers(feed: FakeFeed) -> None:
    items = (await snapshots(feed).snapshot(TOPIC, View.PUBLIC)).items
    assert [item.key for item in items] == ["product:A", "availability:A:L1"]


@pytest.mark.parametrize("page_items", [2000, 0])
async def test_what_the_public_can_not_see_changes_nothing(feed: FakeFeed, page_items: int) -> None:
    """Neither the item nor what a tag is made of; over pages as well."""
    feed.page_items = page_items
    feed.rows["location:L1"] = [product("A", 1), stock("A", 2, on_hand=50)]
    source = snapshots(feed)
    first = await source.snapshot(TOPIC, View.PUBLIC)
    feed.change("location:L1", stock("A", 9, on_hand=60))
    second = await source.snapshot(TOPIC, View.PUBLIC)
    assert list(second.items) == list(first.items)
    assert (first.held, second.held, second.hit) == (False, True, False)
    feed.change("location:L1", stock("A", 12, on_hand=0))
    third = list((await source.snapshot(TOPIC, View.PUBLIC)).items)
    assert [item.version for item in third] == [1, 12]
    feed.void("location:L1")
    feed.rows["location:L1"] = [product("A", 1), stock("A", 5, on_hand=0)]
    fourth = await source.snapshot(TOPIC, View.PUBLIC)
    assert not fourth.held
    assert [item.version for item in fourth.items] == [1, 5]  # another epoch: nothing was told in it yet


async def test_a_large_topic_is_read_in_pages(feed: FakeFeed) -> None:
    feed.page_items = 10
    feed.rows["location:L1"] = [stock(f"P{n}", n + 1) for n in range(250)]
    source = snapshots(feed)
    assert len((await source.snapshot(TOPIC, View.EXACT)).items) == 250
    assert (await source.snapshot(TOPIC, View.EXACT)).hit


async def test_what_was_asked_for_longest_ago_is_dropped(feed: FakeFeed) -> None:
    source = snapshots(feed, max_items=2)
    await source.snapshot(TOPIC, View.EXACT)
    feed.rows["product:A"] = [product("A", 1)]
    await source.snapshot(parse_topic("product:A"), View.EXACT)
    assert not (await source.snapshot(TOPIC, View.EXACT)).hit


async def test_a_topic_that_never_rests_is_given_up(feed: FakeFeed) -> None:
    class Restless(FakeFeed):
        async def ensure(self, topic: object) -> Opened:
            self.topics.pop("location:L1", None)
            opened = await super().ensure(TOPIC)
            self.topics.pop("location:L1")
            return opened

    with pytest.raises(ProtocolError) as told:
        await snapshots(Restless()).snapshot(TOPIC, View.EXACT)
    assert told.value.code is ErrorCode.UNAVAILABLE


async def test_a_large_one_that_is_void_before_its_end_is_read_again(feed: FakeFeed) -> None:
    class Voided(FakeFeed):
        async def positions(self, topics: object) -> dict[str, object]:  # type: ignore[override] # of none
            return {}

    voided = Voided()
    voided.page_items = 0
    voided.rows = feed.rows
    with pytest.raises(ProtocolError):
        await snapshots(voided).snapshot(TOPIC, View.EXACT)
