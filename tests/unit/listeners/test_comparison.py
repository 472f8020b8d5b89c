from collections.abc import AsyncIterator, Sequence

import pytest

from listeners.comparison import differing, read_stamps, stamp, version_of, witnesses
from listeners.errors import TopicTooLarge
from protocol.items import Item, tombstone
from protocol.topics import parse_topic
from tests.support.replica import product, stock

LOCATION = parse_topic("location:L1")
VENDOR = parse_topic("vendor:V")


def stamps(*items: Item) -> dict[str, bytes]:
    return {item.key: stamp(item) for item in items}


class TestDiffering:
    async def test_equal_ones_do_not(self) -> None:
        items = (stock("A", 1), product("A", 2))
        assert await differing(LOCATION, stamps(*items), stamps(*items)) == []

    async def test_versions(self) -> None:
        assert await differing(VENDOR, stamps(stock("A", 1)), stamps(stock("A", 2))) == ["stock:A:L1"]

    async def test_bodies_of_one_version(self) -> None:
        stored, rows = stamps(stock("A", 1, on_hand=1)), stamps(stock("A", 1, on_hand=2))
        assert await differing(VENDOR, stored, rows) == ["stock:A:L1"]

    async def test_on_one_side_only(self) -> None:
        stored, rows = stamps(stock("A", 1), stock("B", 1)), stamps(stock("B", 1), stock("C", 1))
        assert await differing(VENDOR, stored, rows) == ["stock:A:L1", "stock:C:L1"]

    async def test_a_tombstone_is_as_good_as_nothing(self) -> None:
        gone = stamps(tombstone("stock:A:L1", 5))
        assert await differing(VENDOR, gone, {}) == []
        assert await differing(VENDOR, gone, stamps(stock("A", 5))) == ["stock:A:L1"]


class TestProductsOfALocation:
    """They stay in its topic until the epoch ends, also after their stock there has gone."""

    async def test_one_without_stock_there_does_not_count_on_either_side(self) -> None:
        assert await differing(LOCATION, stamps(product("A", 1)), {}) == []
        assert await differing(LOCATION, {}, stamps(product("A", 1))) == []

    async def test_one_with_stock_there_does(self) -> None:
        stored, rows = stamps(product("A", 1), stock("A", 1)), stamps(product("A", 2), stock("A", 1))
        assert await differing(LOCATION, stored, rows) == ["product:A"]

    async def test_in_other_topics_all_do(self) -> None:
        assert await differing(VENDOR, stamps(product("A", 1)), {}) == ["product:A"]

    async def test_whether_it_belongs_there_is_witnessed_by_its_stock(self) -> None:
        assert witnesses(LOCATION, "product:A") == ("product:A", "stock:A:L1")
        assert witnesses(LOCATION, "stock:A:L1") == ("stock:A:L1",)
        assert witnesses(VENDOR, "product:A") == ("product:A",)


class TestReadStamps:
    async def test_the_newest_of_a_key_counts(self) -> None:
        pages = batches([stock("A", 2), stock("B", 1)], [stock("A", 1)], [stock("B", 3)])
        read = await read_stamps("vendor:V", pages, limit=2)
        assert {key: version_of(held) for key, held in read.items()} == {"stock:A:L1": 2, "stock:B:L1": 3}

    async def test_more_than_the_limit(self) -> None:
        closed: list[bool] = []
        pages = batches([stock("A", 1)], [stock("B", 1)], [stock("C", 1)], closed=closed)
        with pytest.raises(TopicTooLarge):
            await read_stamps("vendor:V", pages, limit=1)
        assert closed == [True]


async def batches(*lists: Sequence[Item], closed: list[bool] | None = None) -> AsyncIterator[list[Item]]:
    try:
        for items in lists:
            yield list(items)
    finally:
        if closed is not None:
            closed.append(True)
