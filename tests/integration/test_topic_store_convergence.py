"""Whatever the order of commits, batches, replays, loads and voids: copies converge to the database."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from listeners.errors import LoadLost
from listeners.keys import Keys
from listeners.topic_store import LogItem, MustLoad, Opened, TopicStore
from protocol.envelope import Changed, Envelope, Position, Voided, decode_envelope
from protocol.items import Copy, Item
from tests.support.store import change, gone, item

TOPIC = "location:L1"
PRODUCTS = "ABC"


class Database:
    """One table and its log: versions and log ids as the triggers would draw them."""

    def __init__(self) -> None:
        self.rows: dict[str, Item] = {}
        self.log: list[LogItem] = []
        self._versions = count(1)
        self._waiting: dict[str, int] = {}

    def put(self, product: str) -> None:
        self._commit(product, next(self._versions))

    def delete(self, product: str) -> None:
        if self.rows.pop(f"stock:{product}:L1", None) is not None:
            self.log.append(gone(product, next(self._versions), len(self.log) + 1))

    def insert_begins(self, product: str) -> None:
        """An INSERT draws its version, and then finds a row in its way that is about to be deleted."""
        self._waiting.setdefault(product, next(self._versions))

    def insert_ends(self, product: str) -> None:
        if product in self._waiting and f"stock:{product}:L1" in self.rows:
            self.delete(product)
            self._commit(product, self._waiting.pop(product))

    def _commit(self, product: str, version: int) -> None:
        row = change(product, version, len(self.log) + 1)
        self.rows[row.item.key] = row.item
        self.log.append(row)


def folded(rows: list[LogItem]) -> list[LogItem]:
    """By key the highest id wins; both stay where its version is not the highest."""
    kept: dict[str, list[LogItem]] = {}
    for row in rows:
        before = kept.get(row.item.key, [])
        kept[row.item.key] = [*(old for old in before if old.item.version > row.item.version), row]
    return [row for versions in kept.values() for row in versions]


@dataclass
class Replica:
    """A subscriber's copy, kept by the rules of the contract."""

    store: TopicStore
    position: Position | None = None
    copy: Copy = field(default_factory=Copy)
    newest: dict[tuple[str, str], int] = field(default_factory=dict)

    def hear(self, envelope: Envelope) -> None:
        match envelope:
            case Changed(topic=_, epoch=epoch, seq=seq, items=items) if self.position is not None:
                if (epoch, seq) == (self.position.epoch, self.position.seq + 1):
                    self.take(items)
                    self.position = Position(epoch, seq)
            case Voided():
                self.position = None

    def take(self, items: tuple[Item, ...] | list[Item]) -> None:
        for part in items:
            kind, product, location = part.key.split(":")
            self.copy.apply(
                [
                    {
                        "kind": kind,
                        "product_id": product,
                        "location_id": location,
                        "version": part.version,
                        "deleted": part.deleted,
                    }
                ]
            )

    async def repair(self) -> None:
        """What a replica does about a hole: the log, else everything anew."""
        held = (await self.store.positions([TOPIC])).get(TOPIC)
        if held is None or held == self.position:
            return
        missed = await self.store.log_since(TOPIC, *self.position) if self.position else None
        if missed is not None:
            for changed in missed:
                self.hear(changed)
            return
        stored = await self.store.read(TOPIC)
        if stored is not None:
            if self.position is not None and stored.epoch == self.position.epoch:
                assert stored.seq >= self.position.seq
            self.copy.reset()
            self.take(stored.items)
            self.position = Position(stored.epoch, stored.seq)

    def versions(self) -> dict[str, int]:
        return {key: held["version"] for key, held in self.copy.items.items()}


class World:
    """The database, the relay, a loader and a replica; a step of one of them at a time."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        tokens: Iterator[int] = count(1)
        new_token: Callable[[], str] = lambda: f"e{next(tokens)}"  # noqa: E731  (typed)
        self.redis, self.keys = redis, keys
        self.store = TopicStore(redis, keys, new_token=new_token, tombstones=2, log_entries=3)
        self.database = Database()
        self.replica = Replica(self.store)
        self.pubsub = redis.pubsub()
        self.term = 0
        self.generation = "g1"
        self.relayed = 0
        self.loading: str | None = None
        self.read: list[Item] = []

    async def begin(self, *, generation: str | None = None) -> None:
        self.generation = generation or self.generation
        self.term += 1
        await self.store.begin(self.generation, self.term)

    async def relay(self, rows: int) -> None:
        some = self.database.log[self.relayed : self.relayed + rows]
        self.relayed += len(some)
        await self.store.apply(
            {TOPIC: folded(some)}, generation=self.generation, term=self.term, changed_at_ms=1
        )

    async def open(self) -> None:
        opened = await self.store.open(TOPIC)
        if isinstance(opened, MustLoad):
            self.loading = opened.epoch
            self.read = list(self.database.rows.values())

    async def merge(self, rows: int) -> None:
        if self.loading is not None:
            some, self.read = self.read[:rows], self.read[rows:]
            with suppress(LoadLost):
                await self.store.merge(TOPIC, self.loading, some)
                return
            self.loading = None

    async def ready(self) -> None:
        await self.merge(len(self.read))
        if self.loading is not None:
            with suppress(LoadLost):
                await self.store.ready(TOPIC, self.loading)
            self.loading = None

    async def listen(self, *, losing: bool = False) -> None:
        """The replica hears what was published, or its link loses that."""
        end = secrets.token_hex(4).encode()
        await self.redis.publish(f"{self.keys.prefix}:end", end)
        while True:
            message = await self.pubsub.get_message(timeout=5.0)
            assert message is not None
            if message["data"] == end:
                return
            if message["type"] == "pmessage" and not losing:
                self.replica.hear(decode_envelope(message["data"]))

    async def settle(self) -> None:
        """Writes have stopped; everybody does what is theirs until nothing is left to do."""
        for _ in range(10):
            while self.relayed < len(self.database.log):
                await self.relay(1000)
            await self.ready()
            opened = await self.store.open(TOPIC)
            if isinstance(opened, Opened):
                break
            if isinstance(opened, MustLoad):
                self.loading, self.read = opened.epoch, list(self.database.rows.values())
        await self.listen()
        await self.replica.repair()


class Step(NamedTuple):
    name: str
    argument: str | int = 0

    async def take(self, world: World) -> None:
        database, store = world.database, world.store
        match self:
            case ("put" | "delete" | "insert_begins" | "insert_ends" as name, str(product)):
                getattr(database, name)(product)
            case ("relay", int(rows)):
                await world.relay(rows)
            case ("replay", int(rows)):
                world.relayed = max(0, world.relayed - rows)
            case ("merge", int(rows)):
                await world.merge(rows)
            case ("open" | "ready" as name, _):
                await getattr(world, name)()
            case ("void", _):
                await store.void([TOPIC], generation=world.generation, term=world.term)
            case ("term", _):
                await world.begin()
            case ("generation", int(number)):
                await world.begin(generation=f"g{number}")
            case ("listen", _):
                await world.listen()
                await world.replica.repair()
            case ("lose", _):
                await world.listen(losing=True)
            case ("forget", _):
                await world.redis.delete(world.keys.topic(TOPIC))
            case _:
                raise AssertionError(self)


products = st.sampled_from(PRODUCTS)
few = st.integers(1, 4)
steps = st.lists(
    st.one_of(
        st.builds(Step, st.just("put"), products),
        st.builds(Step, st.just("put"), products),
        st.builds(Step, st.just("delete"), products),
        st.builds(Step, st.sampled_from(["insert_begins", "insert_ends"]), products),
        st.builds(Step, st.just("relay"), few),
        st.builds(Step, st.just("relay"), few),
        st.builds(Step, st.just("replay"), few),
        st.builds(Step, st.just("merge"), few),
        st.builds(Step, st.sampled_from(["open", "ready", "listen", "lose"])),
        st.builds(Step, st.sampled_from(["void", "term", "forget"])),
        st.builds(Step, st.just("generation"), few),
    ),
    max_size=40,
)


@pytest.mark.timeout(300)
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@example(
    steps=[
        Step("insert_begins", "A"),
        Step("put", "A"),
        Step("open"),
        Step("ready"),
        Step("relay", 1),
        Step("insert_ends", "A"),
    ]
)
@given(steps=steps)
async def test_copies_converge(redis: Redis, redis_prefix: str, steps: list[Step]) -> None:
    keys = Keys(f"{redis_prefix}{secrets.token_hex(4)}")
    world = World(redis, keys)
    await world.begin()
    async with world.pubsub as pubsub:
        await pubsub.psubscribe(f"{keys.prefix}:*")
        await pubsub.get_message(timeout=5.0)
        for step in steps:
            await step.take(world)
        await world.settle()
        expected = {key: row.version for key, row in world.database.rows.items()}
        stored = await world.store.read(TOPIC)
        assert stored is not None
        live = {part.key: part.version for part in stored.items if not part.deleted}
        assert live == expected
        assert world.replica.versions() == expected


async def versions_of(store: TopicStore) -> dict[str, tuple[int, bool]]:
    stored = await store.read(TOPIC)
    assert stored is not None
    return {part.key: (part.version, part.deleted) for part in stored.items}


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(
        st.lists(
            st.tuples(products, st.integers(1, 30), st.booleans()), max_size=6, unique_by=lambda one: one[0]
        ),
        max_size=12,
    )
)
async def test_the_gate_is_a_plain_maximum(
    redis: Redis, redis_prefix: str, parts: list[list[tuple[str, int, bool]]]
) -> None:
    """By key the highest version that ever came, whatever the order; a seq for each call that had news."""
    store = TopicStore(redis, Keys(f"{redis_prefix}{secrets.token_hex(4)}"))
    await store.begin("g1", 1)
    opened = await store.open(TOPIC)
    assert isinstance(opened, MustLoad)
    await store.merge(TOPIC, opened.epoch, [item("A", 10)])
    await store.ready(TOPIC, opened.epoch)
    model = {"stock:A:L1": (10, False)}
    seq = 1
    for part in parts:
        # Without log ids nothing is known of commit order, and the version alone decides.
        changes = [
            gone(key, version, 0) if deleted else change(key, version, 0) for key, version, deleted in part
        ]
        applied = await store.apply({TOPIC: changes}, generation="g1", term=1, changed_at_ms=1)
        news = {
            one.item.key: (one.item.version, one.item.deleted)
            for one in changes
            if one.item.version > model.get(one.item.key, (0, False))[0]
        }
        model |= news
        seq += bool(news)
        assert applied == (int(bool(news)), 0)
    assert await versions_of(store) == model
    assert await store.positions([TOPIC]) == {TOPIC: Position(opened.epoch, seq)}
