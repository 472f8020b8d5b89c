"""The topic store on a real server, rule by rule (DESIGN 3.4)."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from typing import Any

import pytest
from redis.asyncio import Redis

from listeners.embedded import ValkeyServer
from listeners.errors import EpochChanged, LoadLost, NoRelay, StaleTerm, Unavailable, UnknownReign
from listeners.keys import BUCKETS, Keys, bucket_of
from listeners.parts import MAX_PART_BYTES
from listeners.redis_client import connect_redis
from listeners.scripts import Call, Scripts
from listeners.topic_store import Loading, LogItem, MustLoad, Opened, Reign, Stored, TopicStore
from protocol.envelope import (
    Beat,
    Changed,
    Envelope,
    NewGeneration,
    Position,
    Ready,
    Voided,
    decode_envelope,
)
from protocol.items import Item
from tests.support.store import (
    CHANGED_AT_MS,
    GENERATION,
    TERM,
    change,
    gone,
    item,
    load,
    relay_applies,
)
from tests.support.waiting import eventually

TOPIC = "location:L1"
OTHER = "vendor:V"


@pytest.fixture
def keys(redis_prefix: str) -> Keys:
    return Keys(redis_prefix)


@pytest.fixture
def make(redis: Redis, keys: Keys) -> Callable[..., TopicStore]:
    """A store on the test's own keys, with tokens e1, e2, ..."""
    tokens = count(1)

    def made(**options: Any) -> TopicStore:
        return TopicStore(redis, keys, new_token=lambda: f"e{next(tokens)}", **options)

    return made


@pytest.fixture
async def store(make: Callable[..., TopicStore]) -> TopicStore:
    """A store in which a relay has begun."""
    made = make()
    await made.begin(GENERATION, TERM)
    return made


class Spy:
    """Hears all channels of a prefix."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self._prefix = prefix
        self._pubsub = redis.pubsub()

    async def __aenter__(self) -> "Spy":
        await self._pubsub.psubscribe(f"{self._prefix}:*")
        await self._pubsub.get_message(timeout=5.0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]  # a gap of redis-py

    async def heard(self, client: Redis) -> list[Envelope]:
        """What was published until now, in order."""
        end = secrets.token_hex(4)
        await client.publish(f"{self._prefix}:end", end)
        envelopes: list[Envelope] = []
        while True:
            message = await self._pubsub.get_message(timeout=5.0)
            assert message is not None
            if message["data"] == end.encode():
                return envelopes
            envelopes.append(decode_envelope(message["data"]))


@pytest.fixture
async def spy(redis_url: str, redis_prefix: str) -> AsyncIterator[Spy]:
    async with Redis.from_url(redis_url, protocol=2) as client, Spy(client, redis_prefix) as spy:
        yield spy


async def stored(store: TopicStore, topic: str = TOPIC) -> Stored:
    """The topic with its items in order."""
    found = await store.read(topic)
    assert found is not None
    return found._replace(items=sorted(found.items))


class TestBegin:
    async def test_no_topic_opens_before_a_relay_has_begun(self, make: Callable[..., TopicStore]) -> None:
        store = make()
        assert await store.reign() is None
        with pytest.raises(NoRelay):
            await store.open(TOPIC)
        with pytest.raises(NoRelay):
            await store.peek(TOPIC)

    async def test_the_reign_is_known_afterwards(self, store: TopicStore) -> None:
        assert await store.reign() == Reign(GENERATION, TERM)

    async def test_a_new_generation_is_published_once(
        self, make: Callable[..., TopicStore], spy: Spy, redis: Redis
    ) -> None:
        store = make()
        await store.begin("g1", 1)
        await store.begin("g1", 1)
        await store.begin("g1", 2)
        await store.begin("g2", 3)
        assert await spy.heard(redis) == [NewGeneration("g1"), NewGeneration("g2")]

    async def test_a_lower_term_of_the_same_generation_is_stale(self, store: TopicStore) -> None:
        with pytest.raises(StaleTerm):
            await store.begin(GENERATION, TERM - 1)
        assert await store.reign() == Reign(GENERATION, TERM)

    async def test_terms_are_compared_as_numbers(self, store: TopicStore) -> None:
        await store.begin(GENERATION, 9)
        await store.begin(GENERATION, 10)
        with pytest.raises(StaleTerm):
            await store.begin(GENERATION, 9)

    async def test_a_new_generation_may_have_any_term(self, store: TopicStore) -> None:
        await store.begin("g2", 1)
        assert await store.reign() == Reign("g2", 1)

    async def test_a_new_term_keeps_the_topics(self, store: TopicStore) -> None:
        position = await load(store, TOPIC, [item("A", 1)])
        await store.begin(GENERATION, TERM + 1)
        assert await store.positions([TOPIC]) == {TOPIC: position}

    async def test_a_new_generation_voids_all_topics(self, store: TopicStore) -> None:
        position = await load(store, TOPIC, [item("A", 1)])
        await store.begin("g2", TERM)
        assert await store.positions([TOPIC]) == {}
        assert await store.loaded([TOPIC]) == set()
        assert await store.read(TOPIC) is None
        assert await store.log_since(TOPIC, *position) is None
        assert isinstance(await store.open(TOPIC), MustLoad)

    async def test_a_generation_that_returns_does_not_bring_its_topics_back(self, store: TopicStore) -> None:
        await load(store, TOPIC, [item("A", 1)])
        await store.begin("g2", TERM)
        await store.begin(GENERATION, TERM)
        assert await store.read(TOPIC) is None

    @pytest.mark.parametrize("lost", ["relay", "loaded"])
    async def test_losing_a_bucket_s_keys_voids_its_topics_at_the_next_begin(
        self, store: TopicStore, keys: Keys, redis: Redis, spy: Spy, lost: str
    ) -> None:
        await load(store, TOPIC, [item("A", 1)])
        await redis.delete(getattr(keys, lost)(bucket_of(TOPIC)))
        await store.begin(GENERATION, TERM)
        assert await store.read(TOPIC) is None
        assert (await spy.heard(redis))[-1] == NewGeneration(GENERATION)


class TestReign:
    async def test_apply_by_a_lower_term_is_stale(self, store: TopicStore) -> None:
        await load(store, TOPIC)
        await store.begin(GENERATION, TERM + 1)
        with pytest.raises(StaleTerm):
            await relay_applies(store, TOPIC, change("A", 1))
        assert (await stored(store)).items == []

    async def test_apply_by_another_generation_is_stale(self, store: TopicStore) -> None:
        await store.begin("g2", TERM)
        with pytest.raises(StaleTerm):
            await relay_applies(store, TOPIC, change("A", 1))

    async def test_apply_by_a_term_that_has_not_begun_is_unknown(self, store: TopicStore) -> None:
        with pytest.raises(UnknownReign):
            await store.apply(
                {TOPIC: [change("A", 1)]}, generation=GENERATION, term=TERM + 1, changed_at_ms=1
            )

    async def test_after_redis_lost_everything_the_reign_is_unknown(
        self, store: TopicStore, redis: Redis, keys: Keys
    ) -> None:
        await redis.delete(*(keys.relay(bucket) for bucket in range(BUCKETS)))
        with pytest.raises(UnknownReign):
            await relay_applies(store, TOPIC, change("A", 1))
        with pytest.raises(UnknownReign):
            await store.void([TOPIC], generation=GENERATION, term=TERM)
        with pytest.raises(UnknownReign):
            await store.beat(Beat(GENERATION, 1, 1), term=TERM)

    async def test_void_and_beat_by_a_lower_term_are_stale(self, store: TopicStore) -> None:
        await store.begin(GENERATION, TERM + 1)
        with pytest.raises(StaleTerm):
            await store.void([TOPIC], generation=GENERATION, term=TERM)
        with pytest.raises(StaleTerm):
            await store.beat(Beat(GENERATION, 1, 1), term=TERM)

    async def test_a_stale_bucket_among_others_is_told(
        self, store: TopicStore, redis: Redis, keys: Keys
    ) -> None:
        topics = {f"product:{n}": [change("A", 1)] for n in range(100)}
        await redis.hset(keys.relay(7), "t", str(TERM + 1))
        await redis.delete(keys.relay(3))
        with pytest.raises(StaleTerm):
            await store.apply(topics, generation=GENERATION, term=TERM, changed_at_ms=1)

    async def test_beat_is_published_once(self, store: TopicStore, spy: Spy, redis: Redis) -> None:
        beat = Beat(GENERATION, 1_700_000_000_000, 7)
        await store.beat(beat, term=TERM)
        assert await spy.heard(redis) == [beat]


class TestApply:
    async def test_a_topic_nobody_has_loaded_stays_unknown(
        self, store: TopicStore, spy: Spy, redis: Redis, keys: Keys
    ) -> None:
        assert await relay_applies(store, TOPIC, change("A", 1)) == (0, 0)
        assert await redis.exists(keys.topic(TOPIC), keys.log(TOPIC)) == 0
        assert await spy.heard(redis) == []

    async def test_nothing_to_apply(self, store: TopicStore) -> None:
        assert await store.apply({}, generation=GENERATION, term=TERM, changed_at_ms=1) == (0, 0)
        assert await relay_applies(store, TOPIC) == (0, 0)

    async def test_a_newer_version_is_stored_logged_and_published(
        self, store: TopicStore, spy: Spy, redis: Redis
    ) -> None:
        epoch, _ = await load(store, TOPIC, [item("A", 1), item("B", 2)])
        assert await relay_applies(store, TOPIC, change("A", 5), change("C", 4)) == (1, 0)
        changed = Changed(TOPIC, epoch, 2, CHANGED_AT_MS, (item("A", 5), item("C", 4)))
        assert await stored(store) == (epoch, 2, [item("A", 5), item("B", 2), item("C", 4)])
        assert await store.log_since(TOPIC, epoch, 1) == [changed]
        assert await spy.heard(redis) == [Ready(TOPIC, epoch, 1), changed]

    @pytest.mark.parametrize("version", [1, 4, 5])
    async def test_a_version_at_or_below_the_stored_one_changes_nothing(
        self, store: TopicStore, spy: Spy, redis: Redis, version: int
    ) -> None:
        epoch, _ = await load(store, TOPIC, [item("A", 5)])
        assert await relay_applies(store, TOPIC, change("A", version, available=0)) == (0, 0)
        assert await stored(store) == (epoch, 1, [item("A", 5)])
        assert await spy.heard(redis) == [Ready(TOPIC, epoch, 1)]

    async def test_only_what_was_newer_is_published(self, store: TopicStore, spy: Spy, redis: Redis) -> None:
        epoch, _ = await load(store, TOPIC, [item("A", 5)])
        await relay_applies(store, TOPIC, change("A", 3), change("B", 1))
        assert (await spy.heard(redis))[-1] == Changed(TOPIC, epoch, 2, CHANGED_AT_MS, (item("B", 1),))

    async def test_versions_are_compared_as_numbers(self, store: TopicStore) -> None:
        await load(store, TOPIC, [item("A", 9)])
        await relay_applies(store, TOPIC, change("A", 10))
        await relay_applies(store, TOPIC, change("A", 9, 20))
        largest = 2**53 - 1
        await load(store, OTHER, [item("A", largest - 1)])
        await relay_applies(store, OTHER, change("A", largest))
        assert (await stored(store, OTHER)).items == [item("A", largest)]

    async def test_bodies_come_through_byte_by_byte(self, store: TopicStore) -> None:
        body = '{"name":"Käse 100% L5 \\n \\u0000 \'quoted\' 🧀"}'.encode()
        odd = Item("product:A", 7, False, body)
        epoch, _ = await load(store, TOPIC, [odd._replace(key="product:B")])
        await relay_applies(store, TOPIC, LogItem(odd, 1))
        log = await store.log_since(TOPIC, epoch, 1)
        assert log is not None
        assert log[0].items == (odd,)
        assert (await stored(store)).items == [odd, odd._replace(key="product:B")]

    async def test_one_message_a_topic_and_call(self, store: TopicStore, spy: Spy, redis: Redis) -> None:
        topics = [f"product:{n}" for n in range(40)]
        for topic in topics:
            await load(store, topic)
        changes = {topic: [change("A", 1), change("B", 2)] for topic in topics}
        applied = await store.apply(changes, generation=GENERATION, term=TERM, changed_at_ms=CHANGED_AT_MS)
        assert applied == (40, 0)
        heard = [envelope for envelope in await spy.heard(redis) if isinstance(envelope, Changed)]
        assert sorted(envelope.topic for envelope in heard) == sorted(topics)
        assert all(envelope.items == (item("A", 1), item("B", 2)) for envelope in heard)

    async def test_many_changes_are_split_into_small_messages(
        self, store: TopicStore, spy: Spy, redis: Redis
    ) -> None:
        epoch, _ = await load(store, TOPIC)
        changes = [change(f"P{n}", n + 1, text="x" * 500) for n in range(1000)]
        applied = await relay_applies(store, TOPIC, *changes)
        heard = [envelope for envelope in await spy.heard(redis) if isinstance(envelope, Changed)]
        assert applied.published == len(heard) >= 8
        assert [envelope.seq for envelope in heard] == list(range(2, 2 + len(heard)))
        assert [part for envelope in heard for part in envelope.items] == [part.item for part in changes]
        for envelope in heard:
            assert len(envelope.items) <= 200
            assert sum(len(part.body) for part in envelope.items) < MAX_PART_BYTES
        assert await store.log_since(TOPIC, epoch, 1) == heard

    async def test_while_a_topic_is_loading_changes_are_stored_and_not_published(
        self, store: TopicStore, spy: Spy, redis: Redis
    ) -> None:
        opened = await store.open(TOPIC)
        assert isinstance(opened, MustLoad)
        assert await relay_applies(store, TOPIC, change("A", 5), gone("B", 6)) == (0, 0)
        await store.merge(TOPIC, opened.epoch, [item("A", 4), item("B", 5), item("C", 1)])
        await store.ready(TOPIC, opened.epoch)
        assert await stored(store) == (opened.epoch, 1, [item("A", 5), gone("B", 6).item, item("C", 1)])
        assert await spy.heard(redis) == [Ready(TOPIC, opened.epoch, 1)]

    async def test_a_key_that_comes_twice_goes_through_the_gate_twice(self, store: TopicStore) -> None:
        epoch, _ = await load(store, TOPIC)
        await relay_applies(store, TOPIC, change("A", 1), change("A", 3), change("A", 2, 1))
        assert await stored(store) == (epoch, 2, [item("A", 3)])

    async def test_it_survives_a_server_that_forgot_the_scripts(
        self, store: TopicStore, redis: Redis
    ) -> None:
        topics = [f"product:{n}" for n in range(40)]
        for topic in topics:
            await load(store, topic)
        for version in (1, 2):
            await redis.script_flush()
            applied = await store.apply(
                {topic: [change("A", version)] for topic in topics},
                generation=GENERATION,
                term=TERM,
                changed_at_ms=1,
            )
            assert applied == (40, 0)


class TestLog:
    async def test_nothing_is_missing_at_the_present_seq(self, store: TopicStore) -> None:
        assert await store.log_since(TOPIC, "e", 1) is None
        epoch, seq = await load(store, TOPIC)
        assert await store.log_since(TOPIC, epoch, seq) == []

    @pytest.mark.parametrize("seq", [0, 5])
    async def test_a_seq_outside_what_is_kept_is_not_answered(self, store: TopicStore, seq: int) -> None:
        epoch, _ = await load(store, TOPIC)
        await relay_applies(store, TOPIC, change("A", 1))
        assert await store.log_since(TOPIC, epoch, seq) is None

    async def test_another_epoch_is_not_answered(self, store: TopicStore) -> None:
        _, seq = await load(store, TOPIC)
        assert await store.log_since(TOPIC, "else", seq) is None

    async def test_it_keeps_so_many_entries(self, make: Callable[..., TopicStore]) -> None:
        store = make(log_entries=3)
        await store.begin(GENERATION, TERM)
        epoch, _ = await load(store, TOPIC)
        for version in range(1, 6):
            await relay_applies(store, TOPIC, change("A", version))
        assert await store.log_since(TOPIC, epoch, 2) is None
        kept = await store.log_since(TOPIC, epoch, 3)
        assert kept is not None
        assert [entry.seq for entry in kept] == [4, 5, 6]

    async def test_it_keeps_so_many_bytes(
        self, make: Callable[..., TopicStore], redis: Redis, keys: Keys
    ) -> None:
        store = make(log_bytes=1000)
        await store.begin(GENERATION, TERM)
        epoch, _ = await load(store, TOPIC)
        for version in range(1, 30):
            await relay_applies(store, TOPIC, change("A", version, text="x" * (version * 10)))
            entries = await redis.lrange(keys.log(TOPIC), 0, -1)
            held = sum(map(len, entries))
            assert held <= 1000
            assert await redis.hget(keys.topic(TOPIC), "@logged") == str(held).encode()
        await relay_applies(store, TOPIC, change("A", 30, text="x" * 2000))
        assert await redis.exists(keys.log(TOPIC)) == 0
        assert await store.log_since(TOPIC, epoch, 30) is None
        assert await store.log_since(TOPIC, epoch, 31) == []

    async def test_a_log_that_began_anew_is_not_taken_for_the_old_one(
        self, store: TopicStore, redis: Redis, keys: Keys
    ) -> None:
        epoch, _ = await load(store, TOPIC)
        await relay_applies(store, TOPIC, change("A", 1))
        await redis.delete(keys.log(TOPIC))
        assert await store.log_since(TOPIC, epoch, 1) is None
        await relay_applies(store, TOPIC, change("A", 2))
        assert await store.log_since(TOPIC, epoch, 1) is None
        assert await redis.ttl(keys.log(TOPIC)) > 0
        # The same length, but not the same messages.
        await redis.rpush(keys.log(TOPIC), b"D location:L1 e 9 1\nstock:A:L1 1 L {}")
        assert await store.log_since(TOPIC, epoch, 1) is None


class TestWhatIsPublished:
    """By lines of its messages, which replicas of the release before have to understand."""

    async def test_a_live_item_is_as_it_is_stored_and_a_tombstone_has_no_log_id(
        self, store: TopicStore, redis: Redis, keys: Keys
    ) -> None:
        await load(store, TOPIC)
        await relay_applies(store, TOPIC, change("A", 5, 41), gone("B", 6, 42))
        logged: Any = await redis.lrange(keys.log(TOPIC), 0, -1)
        held: Any = await redis.hgetall(keys.topic(TOPIC))
        live, dead = (each.item.key.encode() for each in (change("A", 5), gone("B", 6)))
        assert logged[0].split(b"\n")[1:] == [
            live + b" " + held[live],
            dead + b" " + held[dead].replace(b"T42", b"T"),
        ]
        assert held[live].startswith(b"5 L41 ")
        assert held[dead].startswith(b"6 T42 ")


class TestTombstones:
    async def test_a_deletion_is_stored_and_published(
        self, store: TopicStore, spy: Spy, redis: Redis
    ) -> None:
        epoch, _ = await load(store, TOPIC, [item("A", 1), item("B", 2)])
        await relay_applies(store, TOPIC, gone("A", 5))
        assert await stored(store) == (epoch, 2, [gone("A", 5).item, item("B", 2)])
        assert (await spy.heard(redis))[-1] == Changed(TOPIC, epoch, 2, CHANGED_AT_MS, (gone("A", 5).item,))
        assert await store.open(TOPIC) == Opened(epoch, 2, 1)

    async def test_a_replayed_row_does_not_come_back(self, store: TopicStore) -> None:
        await load(store, TOPIC, [item("A", 1)])
        await relay_applies(store, TOPIC, gone("A", 5, 50))
        await relay_applies(store, TOPIC, change("A", 4, 40))
        assert (await stored(store)).items == [gone("A", 5).item]

    async def test_a_newer_row_does(self, store: TopicStore) -> None:
        epoch, _ = await load(store, TOPIC, [item("A", 1)])
        await relay_applies(store, TOPIC, gone("A", 5))
        await relay_applies(store, TOPIC, change("A", 6))
        assert await store.open(TOPIC) == Opened(epoch, 3, 1)

    async def test_an_insert_that_waited_for_the_delete_voids_the_topic(
        self, store: TopicStore, spy: Spy, redis: Redis
    ) -> None:
        """Its version is older than the tombstone's, its log id is not (DESIGN 3.1)."""
        epoch, _ = await load(store, TOPIC, [item("A", 1)])
        await relay_applies(store, TOPIC, gone("A", 20, 5))
        assert await relay_applies(store, TOPIC, change("A", 15, 6)) == (0, 1)
        assert await store.read(TOPIC) is None
        assert await store.loaded([TOPIC]) == set()
        assert await store.log_since(TOPIC, epoch, 2) is None
        assert (await spy.heard(redis))[-1] == Voided(TOPIC)

    async def test_also_when_both_come_in_one_call(self, store: TopicStore) -> None:
        await load(store, TOPIC, [item("A", 1)])
        assert await relay_applies(store, TOPIC, gone("A", 20, 5), change("A", 15, 6)) == (0, 1)

    async def test_also_over_a_live_item(self, store: TopicStore) -> None:
        await load(store, TOPIC)
        await relay_applies(store, TOPIC, change("A", 20, 5))
        assert await relay_applies(store, TOPIC, change("A", 15, 6)) == (0, 1)

    async def test_an_item_that_was_loaded_has_no_place_in_the_log_s_order(self, store: TopicStore) -> None:
        await load(store, TOPIC, [item("A", 20)])
        assert await relay_applies(store, TOPIC, change("A", 15, 6)) == (0, 0)

    async def test_also_while_loading(self, store: TopicStore, spy: Spy, redis: Redis) -> None:
        opened = await store.open(TOPIC)
        assert isinstance(opened, MustLoad)
        await relay_applies(store, TOPIC, gone("A", 20, 5))
        assert await relay_applies(store, TOPIC, change("A", 15, 6)) == (0, 1)
        with pytest.raises(LoadLost):
            await store.ready(TOPIC, opened.epoch)
        assert await spy.heard(redis) == []

    async def test_too_many_void_the_topic(
        self, make: Callable[..., TopicStore], spy: Spy, redis: Redis
    ) -> None:
        store = make(tombstones=10)
        await store.begin(GENERATION, TERM)
        await load(store, TOPIC, [item(f"P{n}", 1) for n in range(20)])
        assert await relay_applies(store, TOPIC, *(gone(f"P{n}", 2) for n in range(10))) == (1, 0)
        assert await relay_applies(store, TOPIC, gone("P10", 2)) == (0, 1)
        assert (await spy.heard(redis))[-1] == Voided(TOPIC)

    async def test_half_as_many_as_live_items_are_allowed(self, make: Callable[..., TopicStore]) -> None:
        store = make(tombstones=10)
        await store.begin(GENERATION, TERM)
        await load(store, TOPIC, [item(f"P{n}", 1) for n in range(60)])
        assert await relay_applies(store, TOPIC, *(gone(f"P{n}", 2) for n in range(20))) == (1, 0)
        assert await relay_applies(store, TOPIC, gone("P20", 2)) == (0, 1)

    async def test_what_returns_is_no_tombstone_any_more(self, make: Callable[..., TopicStore]) -> None:
        store = make(tombstones=10)
        await store.begin(GENERATION, TERM)
        await load(store, TOPIC)
        for version in range(1, 60, 2):
            assert (await relay_applies(store, TOPIC, gone("A", version))).voided == 0
            assert (await relay_applies(store, TOPIC, change("A", version + 1))).voided == 0

    async def test_they_do_not_count_while_loading(self, make: Callable[..., TopicStore]) -> None:
        store = make(tombstones=10)
        await store.begin(GENERATION, TERM)
        opened = await store.open(TOPIC)
        assert isinstance(opened, MustLoad)
        assert await relay_applies(store, TOPIC, *(gone(f"P{n}", 2) for n in range(30))) == (0, 0)
        await store.ready(TOPIC, opened.epoch)


class TestAKeyThatWasLost:
    """Evicted or deleted before its time, which nobody announces."""

    async def test_the_next_change_of_its_topic_tells_its_followers(
        self, store: TopicStore, spy: Spy, redis: Redis, keys: Keys
    ) -> None:
        await load(store, TOPIC, [item("A", 1)])
        await redis.delete(keys.topic(TOPIC))
        assert await relay_applies(store, TOPIC, change("A", 2)) == (0, 1)
        assert (await spy.heard(redis))[-1] == Voided(TOPIC)
        assert await relay_applies(store, TOPIC, change("A", 3)) == (0, 0)

    async def test_a_topic_nobody_has_loaded_is_none(self, store: TopicStore, spy: Spy, redis: Redis) -> None:
        await load(store, OTHER)
        await relay_applies(store, TOPIC, change("A", 2))
        assert not any(isinstance(envelope, Voided) for envelope in await spy.heard(redis))


class TestVoid:
    async def test_it_is_deleted_and_published(
        self, store: TopicStore, spy: Spy, redis: Redis, keys: Keys
    ) -> None:
        for topic in (TOPIC, OTHER):
            await load(store, topic, [item("A", 1)])
            await relay_applies(store, topic, change("A", 2))
        await store.void([TOPIC, "product:unknown"], generation=GENERATION, term=TERM)
        assert (await spy.heard(redis))[4:] == [Voided(TOPIC)]
        assert await redis.exists(keys.topic(TOPIC), keys.log(TOPIC)) == 0
        assert await store.loaded([TOPIC, OTHER]) == {OTHER}

    async def test_many_at_once(self, store: TopicStore, spy: Spy, redis: Redis) -> None:
        topics = {f"product:{n}" for n in range(30)}
        for topic in topics:
            await load(store, topic)
        await spy.heard(redis)
        await store.void(topics, generation=GENERATION, term=TERM)
        assert {
            envelope.topic for envelope in await spy.heard(redis) if isinstance(envelope, Voided)
        } == topics
        assert await store.positions(topics) == {}

    async def test_nothing(self, store: TopicStore) -> None:
        await store.void([], generation=GENERATION, term=TERM)

    async def test_a_load_is_lost(self, store: TopicStore) -> None:
        opened = await store.open(TOPIC)
        assert isinstance(opened, MustLoad)
        await store.void([TOPIC], generation=GENERATION, term=TERM)
        with pytest.raises(LoadLost):
            await store.merge(TOPIC, opened.epoch, [item("A", 1)])
        assert await store.read(TOPIC) is None


class TestLoading:
    async def test_the_first_who_opens_loads(self, store: TopicStore) -> None:
        opened = await store.open(TOPIC)
        assert opened == MustLoad("e2")  # e1 was the reign's token
        assert await store.loaded([TOPIC]) == {TOPIC}
        assert await store.positions([TOPIC]) == {}
        assert await store.read(TOPIC) is None

    async def test_looking_makes_nobody_the_loader(self, store: TopicStore) -> None:
        assert await store.peek(TOPIC) is None
        assert await store.peek(TOPIC) is None
        assert await store.loaded([TOPIC]) == set()

    async def test_others_wait(self, store: TopicStore) -> None:
        await store.open(TOPIC)
        for found in (await store.open(TOPIC), await store.peek(TOPIC)):
            assert isinstance(found, Loading)
            assert 0 < found.retry_ms <= 250

    async def test_a_topic_without_rows_is_loaded(self, store: TopicStore) -> None:
        position = await load(store, TOPIC)
        assert position.seq == 1
        assert await store.open(TOPIC) == Opened(*position, 0)
        assert await store.read(TOPIC) == Stored(*position, [])
        await relay_applies(store, TOPIC, change("A", 1))
        assert await store.open(TOPIC) == Opened(position.epoch, 2, 1)

    async def test_an_older_read_does_not_take_back_what_was_applied_meanwhile(
        self, store: TopicStore
    ) -> None:
        opened = await store.open(TOPIC)
        assert isinstance(opened, MustLoad)
        await relay_applies(store, TOPIC, change("A", 5))
        await store.merge(TOPIC, opened.epoch, [item("A", 3), item("B", 3)])
        await store.ready(TOPIC, opened.epoch)
        assert await stored(store) == (opened.epoch, 1, [item("A", 5), item("B", 3)])

    async def test_large_loads_come_in_parts(self, store: TopicStore) -> None:
        items = sorted(item(f"P{n}", n + 1) for n in range(1999))
        epoch, seq = await load(store, TOPIC, items)
        assert await store.open(TOPIC) == Opened(epoch, seq, 1999)
        assert await stored(store) == (epoch, 1, items)

    async def test_an_expired_lease_is_taken_over(self, make: Callable[..., TopicStore]) -> None:
        store = make(lease_ms=30)
        await store.begin(GENERATION, TERM)
        first = await store.open(TOPIC)
        assert isinstance(first, MustLoad)
        await store.merge(TOPIC, first.epoch, [item("A", 9), item("B", 1)])
        second = await eventually(lambda: _must_load(store))
        assert second.epoch != first.epoch
        for late in (
            store.merge(TOPIC, first.epoch, [item("A", 9)]),
            store.ready(TOPIC, first.epoch),
        ):
            with pytest.raises(LoadLost):
                await late
        await store.abandon(TOPIC, first.epoch)
        await store.merge(TOPIC, second.epoch, [item("A", 3)])
        await store.ready(TOPIC, second.epoch)
        assert await stored(store) == (second.epoch, 1, [item("A", 3)])

    @pytest.mark.parametrize("step", ["open", "merge", "ready"])
    async def test_a_load_that_was_given_up_for_lack_of_an_answer_is_begun_anew(
        self, store: TopicStore, make: Callable[..., TopicStore], monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        """By whoever gave it up; the others can not know and wait for the lease."""
        await store.begin(GENERATION, TERM)
        run = Scripts.run_placed

        async def lose_the_answer(self: Scripts, name: str, call: Call) -> Any:
            if name != "ready":  # of that one not even the question arrives
                await run(self, name, call)
            raise Unavailable("no answer")

        if step != "open":
            opened = await store.open(TOPIC)
            assert isinstance(opened, MustLoad)
            epoch = opened.epoch
        with monkeypatch.context() as patch:
            patch.setattr(Scripts, "run_placed", lose_the_answer)
            steps: dict[str, Callable[[], Awaitable[object]]] = {
                "open": lambda: store.open(TOPIC),
                "merge": lambda: store.merge(TOPIC, epoch, [item("A", 1)]),
                "ready": lambda: store.ready(TOPIC, epoch),
            }
            with pytest.raises(Unavailable):
                await steps[step]()
        assert isinstance(await make().open(TOPIC), Loading)
        assert await store.peek(TOPIC) is None
        assert await load(store, TOPIC, [item("B", 1)])
        assert [one.key for one in (await stored(store)).items] == [item("B", 1).key]

    async def test_a_lease_from_a_clock_that_was_ahead_is_taken_over(
        self, store: TopicStore, redis: Any, redis_prefix: str
    ) -> None:
        """Redis' clock has been put right, and the loader is no more: nobody would come for an hour."""
        first = await store.open(TOPIC)
        assert isinstance(first, MustLoad)
        hour_ms = 3_600_000
        await redis.hincrby(Keys(redis_prefix).topic(TOPIC), "@lease", hour_ms)
        second = await store.open(TOPIC)
        assert isinstance(second, MustLoad)
        with pytest.raises(LoadLost):
            await store.ready(TOPIC, first.epoch)
        await store.ready(TOPIC, second.epoch)

    async def test_merging_renews_the_lease(self, make: Callable[..., TopicStore]) -> None:
        store = make(lease_ms=200)
        await store.begin(GENERATION, TERM)
        opened = await store.open(TOPIC)
        assert isinstance(opened, MustLoad)
        loop = asyncio.get_running_loop()
        until = loop.time() + 0.5
        while loop.time() < until:
            await store.merge(TOPIC, opened.epoch, [])
            assert isinstance(await store.open(TOPIC), Loading)

    async def test_being_ready_twice_is_harmless(self, store: TopicStore, spy: Spy, redis: Redis) -> None:
        epoch, _ = await load(store, TOPIC)
        await relay_applies(store, TOPIC, change("A", 1))
        assert await store.ready(TOPIC, epoch) == Position(epoch, 2)
        assert (await spy.heard(redis))[0] == Ready(TOPIC, epoch, 1)

    async def test_a_ready_topic_takes_no_more_parts(self, store: TopicStore) -> None:
        epoch, _ = await load(store, TOPIC)
        with pytest.raises(LoadLost):
            await store.merge(TOPIC, epoch, [item("A", 1)])

    async def test_a_load_of_another_generation_is_lost(self, store: TopicStore) -> None:
        opened = await store.open(TOPIC)
        assert isinstance(opened, MustLoad)
        await store.begin("g2", TERM)
        with pytest.raises(LoadLost):
            await store.merge(TOPIC, opened.epoch, [item("A", 1)])
        with pytest.raises(LoadLost):
            await store.ready(TOPIC, opened.epoch)
        assert isinstance(await store.open(TOPIC), MustLoad)

    async def test_an_abandoned_load_is_as_if_it_had_not_begun(
        self, store: TopicStore, spy: Spy, redis: Redis, keys: Keys
    ) -> None:
        opened = await store.open(TOPIC)
        assert isinstance(opened, MustLoad)
        await store.merge(TOPIC, opened.epoch, [item("A", 1)])
        for _ in range(2):
            await store.abandon(TOPIC, opened.epoch)
        assert await redis.exists(keys.topic(TOPIC)) == 0
        assert await store.loaded([TOPIC]) == set()
        assert await spy.heard(redis) == []

    async def test_a_ready_topic_that_is_abandoned_is_void(
        self, store: TopicStore, spy: Spy, redis: Redis
    ) -> None:
        epoch, _ = await load(store, TOPIC)
        await store.abandon(TOPIC, epoch)
        assert await spy.heard(redis) == [Ready(TOPIC, epoch, 1), Voided(TOPIC)]

    async def test_merged_tombstones_are_counted(self, make: Callable[..., TopicStore]) -> None:
        store = make(tombstones=1)
        await store.begin(GENERATION, TERM)
        opened = await store.open(TOPIC)
        assert isinstance(opened, MustLoad)
        await store.merge(TOPIC, opened.epoch, [gone("A", 1).item, gone("B", 1).item, gone("C", 1).item])
        await store.merge(TOPIC, opened.epoch, [item("A", 2), item("B", 2)])
        await store.ready(TOPIC, opened.epoch)
        assert await store.open(TOPIC) == Opened(opened.epoch, 1, 2)
        assert await relay_applies(store, TOPIC, change("A", 3)) == (1, 0)


async def _must_load(store: TopicStore) -> MustLoad:
    opened = await store.open(TOPIC)
    assert isinstance(opened, MustLoad)
    return opened


class TestLoaded:
    async def test_by_name_and_by_the_list_of_all(self, store: TopicStore) -> None:
        names = [f"product:{n}" for n in range(200)]
        for name in names[:20]:
            await load(store, name)
        # The first time nothing is known; the second time fewer are asked for than are loaded.
        assert await store.loaded(names) == set(names[:20])
        assert await store.loaded(names[10:11]) == {names[10]}
        assert await store.loaded(names[50:51]) == set()
        assert await store.loaded([]) == set()

    async def test_thousands_by_name(self, store: TopicStore, redis: Redis, keys: Keys) -> None:
        names = [f"product:{n}" for n in range(60_000)]
        bucket = [name for name in names if bucket_of(name) == 5][:3000]
        await redis.zadd(keys.loaded(5), dict.fromkeys(bucket, 10**15))
        assert await store.loaded(bucket[:1]) == {bucket[0]}
        assert await store.loaded(bucket[1:2600]) == set(bucket[1:2600])

    async def test_expired_ones_are_pruned(self, store: TopicStore, redis: Redis, keys: Keys) -> None:
        await load(store, TOPIC)
        index = keys.loaded(bucket_of(TOPIC))
        await redis.zadd(index, {TOPIC: 1_700_000_000_000})
        assert await store.loaded([TOPIC]) == set()
        assert await redis.zrange(index, 0, -1) == [b""]

    @pytest.mark.parametrize("lost", ["relay", "loaded"])
    async def test_when_redis_can_not_tell_all_count_as_loaded(
        self, store: TopicStore, redis: Redis, keys: Keys, lost: str
    ) -> None:
        await load(store, TOPIC)
        await redis.delete(getattr(keys, lost)(bucket_of(TOPIC)))
        assert await store.loaded([TOPIC, OTHER]) == {TOPIC}
        with pytest.raises(UnknownReign):
            await relay_applies(store, TOPIC, change("A", 1))


class TestReading:
    async def test_large_topics_in_pages(self, make: Callable[..., TopicStore]) -> None:
        store = make(page_items=600)
        await store.begin(GENERATION, TERM)
        items = sorted(item(f"P{n}", n + 1) for n in range(3000))
        epoch, _ = await load(store, TOPIC, items)
        pages = [page async for page in store.pages(TOPIC, epoch)]
        assert len(pages) >= 3
        assert sorted({part for page in pages for part in page}) == items
        assert await stored(store) == (epoch, 1, items)

    async def test_pages_of_another_epoch_are_refused_at_the_end(
        self, make: Callable[..., TopicStore]
    ) -> None:
        store = make(page_items=600)
        await store.begin(GENERATION, TERM)
        epoch, _ = await load(store, TOPIC, [item(f"P{n}", n + 1) for n in range(3000)])
        pages = store.pages(TOPIC, epoch)
        assert await anext(pages)
        await store.void([TOPIC], generation=GENERATION, term=TERM)
        with pytest.raises(EpochChanged):
            assert [page async for page in pages]
        await load(store, TOPIC)
        with pytest.raises(EpochChanged):
            assert [page async for page in store.pages(TOPIC, epoch)]

    async def test_a_large_topic_that_is_voided_while_it_is_read_is_not_loaded(
        self, make: Callable[..., TopicStore], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = make(page_items=600)
        await store.begin(GENERATION, TERM)
        await load(store, TOPIC, [item(f"P{n}", n + 1) for n in range(3000)])
        pages = store._pages

        async def voiding(*args: str | int) -> AsyncIterator[list[Item]]:
            await store.void([TOPIC], generation=GENERATION, term=TERM)
            async for page in pages(*args):  # type: ignore[arg-type]  # passed on as they came
                yield page

        monkeypatch.setattr(store, "_pages", voiding)
        assert await store.read(TOPIC) is None

    async def test_items_of_pages_may_be_newer_than_the_seq_never_older(
        self, make: Callable[..., TopicStore]
    ) -> None:
        store = make(page_items=600)
        await store.begin(GENERATION, TERM)
        epoch, _ = await load(store, TOPIC, [item(f"P{n}", 1) for n in range(3000)])
        newest: dict[str, int] = {}
        async for page in store.pages(TOPIC, epoch):
            await relay_applies(store, TOPIC, *(change(f"P{n}", 2) for n in range(100)))
            newest.update((part.key, max(part.version, newest.get(part.key, 0))) for part in page)
        assert set(newest.values()) <= {1, 2}
        assert len(newest) == 3000


class TestExpiry:
    async def test_everything_expires(self, store: TopicStore, redis: Redis, redis_prefix: str) -> None:
        await load(store, TOPIC, [item("A", 1)])
        await relay_applies(store, TOPIC, change("A", 2))
        await store.remember_position(1)
        found = [key async for key in redis.scan_iter(f"{redis_prefix}:*")]
        assert len(found) == 2 * BUCKETS + 3
        for key in found:
            assert await redis.ttl(key) > 0, key

    async def test_positions_keep_topics_and_their_logs_alive(
        self, store: TopicStore, redis: Redis, keys: Keys
    ) -> None:
        position = await load(store, TOPIC)
        await relay_applies(store, TOPIC, change("A", 2))
        for key in (keys.topic(TOPIC), keys.log(TOPIC)):
            await redis.expire(key, 5)
        assert await store.positions([TOPIC, OTHER]) == {TOPIC: position._replace(seq=2)}
        for key in (keys.topic(TOPIC), keys.log(TOPIC)):
            assert await redis.ttl(key) > 170

    async def test_who_only_looks_keeps_nothing_alive(
        self, store: TopicStore, redis: Redis, keys: Keys
    ) -> None:
        position = await load(store, TOPIC, [item("A", 1)])
        await redis.expire(keys.topic(TOPIC), 5)
        assert await store.positions([TOPIC], keep_alive=False) == {TOPIC: position}
        assert [page async for page in store.pages(TOPIC, position.epoch)] == [[item("A", 1)]]
        await store.some(TOPIC, position.epoch, ["stock:A:L1"])
        assert await redis.ttl(keys.topic(TOPIC)) <= 5

    async def test_opening_keeps_it_alive_too(self, store: TopicStore, redis: Redis, keys: Keys) -> None:
        await load(store, TOPIC)
        await redis.expire(keys.topic(TOPIC), 5)
        await store.open(TOPIC)
        assert await redis.ttl(keys.topic(TOPIC)) > 170

    async def test_applying_does_not(self, store: TopicStore, redis: Redis, keys: Keys) -> None:
        await load(store, TOPIC)
        await redis.expire(keys.topic(TOPIC), 5)
        await relay_applies(store, TOPIC, change("A", 2))
        assert await redis.ttl(keys.topic(TOPIC)) <= 5

    async def test_many_positions(self, store: TopicStore) -> None:
        topics = [f"product:{n}" for n in range(300)]
        expected = {topic: await load(store, topic) for topic in topics}
        assert await store.positions([*topics, "product:none"]) == expected
        assert await store.positions([]) == {}


class TestLooking:
    async def test_what_is_loaded_can_be_listed_bucket_by_bucket(self, store: TopicStore) -> None:
        topics = {f"product:{n}" for n in range(300)}
        for topic in topics:
            assert isinstance(await store.open(topic), MustLoad)
        listed = {
            bucket: {name async for page in store.names(bucket) for name in page} for bucket in range(BUCKETS)
        }
        assert set().union(*listed.values()) == topics
        assert all(bucket_of(name) == bucket for bucket, names in listed.items() for name in names)

    async def test_a_large_bucket_comes_in_pages(self, store: TopicStore, redis: Redis, keys: Keys) -> None:
        names = {f"product:{n}" for n in range(5000)}
        await redis.zadd(keys.loaded(3), dict.fromkeys(names, float("inf")))
        pages = [page async for page in store.names(3)]
        assert {name for page in pages for name in page} == names
        assert max(map(len, pages)) < 2000

    async def test_some_keys_of_a_topic(self, store: TopicStore) -> None:
        position = await load(store, TOPIC, [item("A", 1), item("B", 2)])
        await relay_applies(store, TOPIC, gone("B", 3))
        some = await store.some(TOPIC, position.epoch, ["stock:A:L1", "stock:B:L1", "stock:C:L1"])
        assert some == {"stock:A:L1": item("A", 1), "stock:B:L1": gone("B", 3).item}

    @pytest.mark.parametrize("loaded", [True, False])
    async def test_some_keys_of_another_epoch(self, store: TopicStore, loaded: bool) -> None:
        if loaded:
            await load(store, TOPIC, [item("A", 1)])
        with pytest.raises(EpochChanged):
            await store.some(TOPIC, "an earlier one", ["stock:A:L1"])


class TestServer:
    async def test_the_highest_position_is_remembered(self, store: TopicStore) -> None:
        assert await store.remember_position(5) == 5
        assert await store.remember_position(3) == 5
        assert await store.remember_position(2**52) == 2**52

    async def test_a_restart_changes_the_identity(self, private_valkey: ValkeyServer) -> None:
        client = connect_redis(private_valkey.url)
        store = TopicStore(client, Keys())
        before = await store.server_identity()
        assert before == await store.server_identity()
        await private_valkey.restart()
        assert before != await store.server_identity()
        await client.aclose()

    async def test_a_frozen_server_is_unavailable_by_deadline(self, private_valkey: ValkeyServer) -> None:
        client = connect_redis(private_valkey.url, timeout_s=0.2)
        store = TopicStore(client, Keys())
        await store.begin(GENERATION, TERM)
        private_valkey.pause()
        with pytest.raises(Unavailable):
            await store.open(TOPIC)
        with pytest.raises(Unavailable):
            await store.apply(
                {f"product:{n}": [change("A", 1)] for n in range(30)},
                generation=GENERATION,
                term=TERM,
                changed_at_ms=1,
            )
        private_valkey.resume()
        assert isinstance(await store.open(OTHER), MustLoad)
        await client.aclose()

    async def test_a_full_server_is_unavailable_and_changes_nothing(
        self, private_valkey: ValkeyServer
    ) -> None:
        client = connect_redis(private_valkey.url)
        store = TopicStore(client, Keys())
        await store.begin(GENERATION, TERM)
        await load(store, TOPIC)
        before = await stored(store)
        await client.execute_command("CONFIG SET", "maxmemory", "1")
        with pytest.raises(Unavailable, match="full"):
            await relay_applies(store, TOPIC, change("A", 1))
        await client.execute_command("CONFIG SET", "maxmemory", "0")
        assert await stored(store) == before
        assert await relay_applies(store, TOPIC, change("A", 1)) == (1, 0)
        await client.aclose()
