"""When topics are looked at, and what a difference counts for; the servers are fakes, and so is time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from listeners.errors import EpochChanged, Unavailable
from listeners.keys import bucket_of
from listeners.verifier import Outcome, Verifier, VerifierStatistics
from protocol.envelope import Position
from protocol.items import Item, tombstone
from protocol.topics import Topic, parse_topic
from tests.support.replica import product, stock

NAME = "location:L1"
TOPIC = parse_topic(NAME)
VERIFY_S = 160.0
NONE = VerifierStatistics(verified=0, mismatches=0, moved=0, too_large=0, failures=0, seconds=0.0)


@dataclass
class World:
    """Both servers. `then` is what happens next whenever somebody waits, and the clock of both is one."""

    topics: dict[str, dict[str, Item]] = field(default_factory=dict)
    rows: dict[str, list[Item]] = field(default_factory=dict)
    epochs: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    as_of_s: float = -1.0
    active: bool = True
    failure: Exception | None = None
    then: list[Callable[[], None]] = field(default_factory=list)
    looked: list[tuple[float, str]] = field(default_factory=list)
    read_takes_s: float = 0.0
    alarm_s: float = 0.0
    alarm: asyncio.Event = field(default_factory=asyncio.Event)

    def hold(self, name: str, *items: Item) -> None:
        self.topics[name] = {item.key: item for item in items}
        self.epochs[name] = "e1"

    def apply(self, name: str, *items: Item) -> None:
        self.topics[name].update((item.key, item) for item in items)

    def canary(self) -> None:
        """Everything until now has come."""
        self.as_of_s = self.seconds + 0.001

    # --- time

    def clock(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        if self.then:
            self.then.pop(0)()
        if self.seconds >= self.alarm_s:
            self.alarm.set()
        await asyncio.sleep(0)

    async def wait_until(self, seconds: float) -> None:
        self.alarm_s = seconds
        self.alarm.clear()
        await self.alarm.wait()

    # --- listeners.verifier.Topics

    async def names(self, bucket: int) -> AsyncIterator[list[str]]:
        self._fail()
        yield [name for name in self.topics if bucket_of(name) == bucket]

    async def positions(self, topics: Collection[str], *, keep_alive: bool = True) -> Mapping[str, Position]:
        assert not keep_alive, "looking must not keep a topic alive"
        self._fail()
        self.looked += [(self.seconds, name) for name in topics]
        return {name: Position(self.epochs[name], 1) for name in topics if name in self.topics}

    async def pages(self, topic: str, epoch: str) -> AsyncIterator[list[Item]]:
        for item in list(self.topics[topic].values()):
            yield [item]
        self._check(topic, epoch)

    async def some(self, topic: str, epoch: str, keys: Sequence[str]) -> Mapping[str, Item]:
        self._check(topic, epoch)
        return {key: self.topics[topic][key] for key in keys if key in self.topics[topic]}

    async def abandon(self, topic: str, epoch: str) -> None:
        self._check(topic, epoch)
        del self.topics[topic]

    def _check(self, topic: str, epoch: str) -> None:
        self._fail()
        if topic not in self.topics or self.epochs[topic] != epoch:
            raise EpochChanged(topic)

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure

    # --- listeners.loader.TopicRows, and the pool

    async def batches(self, pool: Any, topic: Topic, *, size: int = 2000) -> AsyncIterator[list[Item]]:
        self.seconds += self.read_takes_s
        for item in self.rows.get(str(topic), []):
            yield [item]

    async def fetchval(self, query: str, *, timeout: float) -> int:
        assert "clock_timestamp" in query
        return round(self.seconds * 1000)


@pytest.fixture
def world() -> World:
    return World()


def make(world: World, **options: Any) -> Verifier:
    given: dict[str, Any] = {
        "verify_s": VERIFY_S,
        "as_of_ms": lambda: round(world.as_of_s * 1000),
        "active": lambda: world.active,
        "clock": world.clock,
        "sleep": world.sleep,
        "random": lambda: 0.5,
    }
    return Verifier(world, world, world, **(given | options))


async def run_for(verifier: Verifier, world: World, seconds: float) -> None:
    ends = world.seconds + seconds
    async with asyncio.TaskGroup() as group:
        task = group.create_task(verifier.run())
        await world.wait_until(ends)
        task.cancel()


class TestWhatADifferenceCountsFor:
    async def test_equal(self, world: World) -> None:
        world.hold(NAME, stock("A", 1), product("A", 2), tombstone("stock:B:L1", 9))
        world.rows[NAME] = [stock("A", 1), product("A", 2)]
        verifier = make(world)
        assert await verifier.verify(TOPIC) is Outcome.VERIFIED
        assert verifier.statistics() == replace(NONE, verified=1)
        assert NAME in world.topics

    async def test_one_that_is_still_there_when_all_has_come_is_a_mismatch(self, world: World) -> None:
        world.hold(NAME, *(stock(product_id, 1) for product_id in "ABCDE"))
        world.then = [world.canary]
        verifier = make(world)
        with capture_logs() as logs:
            assert await verifier.verify(TOPIC) is Outcome.MISMATCH
        assert verifier.statistics().mismatches == 1
        assert NAME not in world.topics
        (line,) = logs
        assert (line["topic"], line["differing"]) == (NAME, 5)
        assert line["keys"] == ["stock:A:L1", "stock:B:L1", "stock:C:L1"]

    async def test_the_relay_was_on_its_way(self, world: World) -> None:
        world.hold(NAME, stock("A", 1))
        world.rows[NAME] = [stock("A", 2)]
        world.then = [lambda: world.apply(NAME, stock("A", 2)), world.canary]
        verifier = make(world)
        assert await verifier.verify(TOPIC) is Outcome.MOVED
        assert verifier.statistics() == replace(NONE, moved=1, seconds=verifier.statistics().seconds)
        assert NAME in world.topics

    async def test_one_item_moves_and_another_is_wrong(self, world: World) -> None:
        world.hold(NAME, stock("A", 1), stock("B", 1))
        world.rows[NAME] = [stock("A", 2), stock("B", 1, on_hand=77)]
        world.then = [lambda: world.apply(NAME, stock("A", 2)), world.canary]
        with capture_logs() as logs:
            assert await make(world).verify(TOPIC) is Outcome.MISMATCH
        assert logs[0]["keys"] == ["stock:B:L1"]

    async def test_inserted_and_deleted_meanwhile(self, world: World) -> None:
        """Nothing before and nothing after, but not untouched."""
        world.hold(NAME)
        world.rows[NAME] = [stock("A", 1)]
        world.then = [lambda: world.apply(NAME, tombstone("stock:A:L1", 2)), world.canary]
        assert await make(world).verify(TOPIC) is Outcome.MOVED

    async def test_stock_came_between_the_reads_of_products_and_of_stock(self, world: World) -> None:
        """A left-over product looks missing from rows whose products were read a moment earlier."""
        world.hold(NAME, product("A", 1))
        world.rows[NAME] = [stock("A", 5)]
        world.then = [lambda: world.apply(NAME, stock("A", 5)), world.canary]
        assert await make(world).verify(TOPIC) is Outcome.MOVED

    async def test_the_canary_does_not_come(self, world: World) -> None:
        world.hold(NAME, stock("A", 1))
        verifier = make(world, proof_timeout_s=5.0)
        assert await verifier.verify(TOPIC) is Outcome.MOVED
        assert world.seconds == pytest.approx(5.0, abs=0.2)
        assert NAME in world.topics

    async def test_a_canary_from_before_the_read_proves_nothing(self, world: World) -> None:
        world.canary()
        world.seconds = 1.0
        world.hold(NAME, stock("A", 1))
        assert await make(world, proof_timeout_s=5.0).verify(TOPIC) is Outcome.MOVED

    async def test_the_epoch_ends_meanwhile(self, world: World) -> None:
        world.hold(NAME, stock("A", 1))
        world.then = [lambda: world.epochs.update({NAME: "e2"}), world.canary]
        assert await make(world).verify(TOPIC) is Outcome.MOVED
        assert NAME in world.topics

    async def test_it_is_not_loaded_any_more(self, world: World) -> None:
        assert await make(world).verify(TOPIC) is Outcome.MOVED

    async def test_a_large_topic_is_skipped(self, world: World) -> None:
        world.hold(NAME, stock("A", 1))
        world.rows[NAME] = [stock(f"P{n}", 1) for n in range(3)]
        verifier = make(world, max_topic_items=2)
        assert await verifier.verify(TOPIC) is Outcome.TOO_LARGE
        assert verifier.statistics().too_large == 1

    async def test_a_read_that_takes_too_long_ends(self, world: World) -> None:
        world.hold(NAME, stock("A", 1))

        class Stuck(World):
            async def batches(
                self, pool: Any, topic: Topic, *, size: int = 2000
            ) -> AsyncIterator[list[Item]]:
                await asyncio.Event().wait()
                yield []

        verifier = Verifier(
            world,
            Stuck(),
            world,
            verify_s=1,
            as_of_ms=lambda: 0,
            active=lambda: True,
            read_timeout_s=0.01,
        )
        with pytest.raises(TimeoutError):
            await verifier.verify(TOPIC)


class TestPace:
    NAMES = tuple(f"product:P{n}" for n in range(40))

    async def test_every_topic_once_in_the_time(self, world: World) -> None:
        for name in self.NAMES:
            world.hold(name)
        verifier = make(world)
        await run_for(verifier, world, VERIFY_S)
        assert sorted(name for _, name in world.looked) == sorted(self.NAMES)
        assert verifier.statistics().verified == len(self.NAMES)
        await run_for(verifier, world, VERIFY_S)
        assert verifier.statistics().verified == 2 * len(self.NAMES)

    async def test_evenly_over_it(self, world: World) -> None:
        for name in self.NAMES:
            world.hold(name)
        await run_for(make(world), world, VERIFY_S)
        moments = [moment for moment, _ in world.looked]
        for quarter in range(4):
            part = [moment for moment in moments if quarter <= moment / VERIFY_S * 4 < quarter + 1]
            assert 4 <= len(part) <= 16

    async def test_a_slow_database_has_half_of_the_time_for_itself(self, world: World) -> None:
        names = [name for name in (f"product:P{n}" for n in range(400)) if bucket_of(name) == 8]
        for name in names:
            world.hold(name)
        world.read_takes_s = VERIFY_S
        await run_for(make(world), world, 10 * VERIFY_S)
        first, second = world.looked[0][0], world.looked[1][0]
        assert second - first == 2 * VERIFY_S

    async def test_only_where_the_relay_is_active(self, world: World) -> None:
        world.hold(NAME)
        world.active = False
        await run_for(make(world), world, 2 * VERIFY_S)
        assert world.looked == []
        world.active = True
        await run_for(make(world), world, VERIFY_S)
        assert world.looked != []

    async def test_a_relay_deposed_within_a_bucket(self, world: World) -> None:
        names = [name for name in (f"product:P{n}" for n in range(400)) if bucket_of(name) == 8]
        for name in names:
            world.hold(name)

        def depose() -> None:
            world.active = False

        world.then = [lambda: None, depose]
        await run_for(make(world), world, VERIFY_S)
        assert len(world.looked) == 1


class TestErrors:
    @pytest.mark.parametrize("failure", [Unavailable("Redis is gone"), ConnectionError("Postgres is gone")])
    async def test_an_outage_is_waited_out(self, world: World, failure: Exception) -> None:
        world.hold(NAME)
        world.failure = failure
        verifier = make(world)
        with capture_logs() as logs:
            await run_for(verifier, world, VERIFY_S)
        pauses = [line["retry_ms"] for line in logs]
        assert pauses[:7] == [500, 1000, 2000, 4000, 8000, 16000, 30000]
        assert verifier.statistics().failures == len(pauses)
        assert {(line["event"], line["log_level"]) for line in logs} == {("verifying interrupted", "warning")}
        world.failure = None
        await run_for(verifier, world, 2 * VERIFY_S)
        assert verifier.statistics().verified == 2

    async def test_a_surprise_is_logged_and_disturbs_nobody(self, world: World) -> None:
        world.hold(NAME)
        world.failure = ValueError("not enough values to unpack")
        verifier = make(world)
        with capture_logs() as logs:
            await run_for(verifier, world, VERIFY_S / 16)
        assert [line["log_level"] for line in logs] == ["error"]
        assert verifier.statistics().failures == 1
