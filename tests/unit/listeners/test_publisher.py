from collections.abc import Collection, Mapping, Sequence

import pytest

from listeners.change_log import LogRow
from listeners.folding import CanaryMark
from listeners.generation import Identity
from listeners.log_plan import LogPlan
from listeners.parts import LogItem
from listeners.publisher import Publisher, RedisChanged, TableTruncated
from listeners.relay_state import Mandate, RelayStatistics
from listeners.source_sql import ReadSql
from listeners.topic_store import Applied, TopicStore
from protocol.envelope import Beat
from protocol.items import Item

IDENTITY = Identity(system="7/5", timeline="1", alive="a", losses="1", sources="s", nonce="n", redis="r1")
MANDATE = Mandate(IDENTITY, 3, "5:5:", LogPlan(ReadSql("SELECT", "", ""), {}, []), notify=True)


class FakeStore(TopicStore):
    """Notes what it is asked to do; every topic of `held` is loaded."""

    def __init__(self, held: Collection[str] = ()) -> None:
        self.held = set(held)
        self.redis = "r1"
        self.asked: list[set[str]] = []
        self.applied: list[dict[str, list[Item]]] = []
        self.beats: list[tuple[Beat, int]] = []

    async def loaded(self, topics: Collection[str]) -> set[str]:
        self.asked.append(set(topics))
        return self.held & set(topics)

    async def apply(
        self,
        changes: Mapping[str, Sequence[LogItem]],
        *,
        generation: str,
        term: int,
        changed_at_ms: int,
    ) -> Applied:
        assert (generation, term, changed_at_ms) == (IDENTITY.generation, 3, 1000)
        self.applied.append({topic: [item for item, _ in items] for topic, items in changes.items()})
        return Applied(published=len(self.held & changes.keys()), voided=0)

    async def server_identity(self) -> str:
        return self.redis

    async def beat(self, beat: Beat, *, term: int) -> None:
        self.beats.append((beat, term))


def row(number: int, op: str = "U", item: str | None = None) -> LogRow:
    numbers = '"available":1,"on_hand":1,"reserved":0,"damaged":0,"safety_stock":0,"incoming":0'
    stock = f'{{"product_id":"P{number}","location_id":"L","vendor_id":"V",{numbers}}}'
    return LogRow(number, "inventory", "stock", op, number, item or stock, None, 1000)


def publisher(store: TopicStore, *, ask_above: int = 64) -> tuple[Publisher, RelayStatistics]:
    statistics = RelayStatistics()
    return Publisher(MANDATE, store, statistics, ask_above=ask_above), statistics


class TestABatch:
    async def test_that_is_small_is_applied_at_once(self) -> None:
        store = FakeStore({"location:L"})
        publishes, statistics = publisher(store)
        await publishes.publish([row(1)])
        assert store.asked == []
        assert [set(changes) for changes in store.applied] == [{"product:P1", "location:L", "vendor:V"}]
        assert (statistics.batches, statistics.rows_read, statistics.published) == (1, 1, 1)
        assert (statistics.topics_applied, statistics.apply.count) == (3, 1)

    async def test_that_is_large_asks_first_which_topics_are_loaded(self) -> None:
        store = FakeStore({"product:P2", "product:elsewhere"})
        publishes, _ = publisher(store, ask_above=4)
        await publishes.publish([row(1), row(2), row(3)])
        assert store.asked == [{"product:P1", "product:P2", "product:P3", "location:L", "vendor:V"}]
        assert [set(changes) for changes in store.applied] == [{"product:P2"}]

    async def test_for_topics_nobody_has_loaded_costs_no_call(self) -> None:
        store = FakeStore()
        publishes, statistics = publisher(store, ask_above=2)
        await publishes.publish([row(1)])
        assert store.applied == []
        assert (statistics.rows_read, statistics.topics_applied) == (1, 0)

    async def test_without_changes_costs_none_either(self) -> None:
        store = FakeStore()
        publishes, statistics = publisher(store)
        mark = await publishes.publish([row(1, "C", '{"as_of_ms":5,"beat":2}')])
        assert mark == CanaryMark(as_of_ms=5, number=2)
        assert store.applied == []
        assert statistics.rows_read == 0

    async def test_with_rows_that_are_no_items_counts_them(self) -> None:
        publishes, statistics = publisher(FakeStore())
        await publishes.publish([row(1, item='{"product_id":"a b"}'), row(2)])
        assert (statistics.rows_read, statistics.rows_skipped) == (2, 1)

    async def test_of_a_truncated_table_is_not_published(self) -> None:
        store = FakeStore()
        publishes, _ = publisher(store)
        with pytest.raises(TableTruncated):
            await publishes.publish([row(1), row(2, "T")])
        assert store.applied == []


class TestTheBeat:
    async def test_goes_out_in_the_name_of_the_reign(self) -> None:
        store = FakeStore()
        publishes, statistics = publisher(store)
        await publishes.beat(CanaryMark(as_of_ms=5, number=2))
        assert store.beats == [(Beat(IDENTITY.generation, 5, 2), 3)]
        assert (statistics.beat, statistics.beat_as_of_ms) == (2, 5)

    async def test_does_not_vouch_for_another_redis(self) -> None:
        store = FakeStore()
        store.redis = "r2"
        publishes, _ = publisher(store)
        with pytest.raises(RedisChanged):
            await publishes.beat(CanaryMark(as_of_ms=5, number=2))
        assert store.beats == []
