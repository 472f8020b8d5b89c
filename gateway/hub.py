"""The topics this replica follows: messages from the bus in, broadcasts out, holes repaired."""

import asyncio
import random
import time
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Final

import structlog

from gateway.doubts import Doubts
from gateway.fanout import Fanout
from gateway.freshness import Freshness, Transition
from gateway.joining import Joiner
from gateway.limits import Loads
from gateway.metrics import GatewayMetrics
from gateway.outgoing import Delivery, Outgoing
from gateway.ports import Feed
from gateway.scoping import without_scope
from gateway.snapshots import SnapshotCache
from gateway.topic_state import Outcome, TopicState
from protocol.dialects import Dialect
from protocol.envelope import Beat, Changed, Envelope, NewGeneration, Position, Voided
from protocol.errors import ErrorCode, ProtocolError
from protocol.subscription import SubscriptionState
from protocol.topics import parse_topic

__all__ = ["Hub", "HubSettings", "Told"]

log = structlog.get_logger(__name__)

# Positions asked for in one pipeline.
COMPARED_AT_ONCE: Final = 500
# A message that is on its way when positions are compared is no hole: it has this long to arrive, in s.
GRACE_S: Final = 0.25

# What has to be said to whom. None: to everybody who is not in doubt (Hub.doubts).
Told = Callable[[Transition, Collection[Outgoing] | None], None]


@dataclass(frozen=True, slots=True)
class HubSettings:
    flush_s: float = 0.05
    canary_s: float = 1.0
    compare_s: float = 30.0
    low_stock: int = 5
    patience_s: float = 5.0
    max_loads: int = 0  # that one principal has under way at a time; 0: any number


class Hub:
    """Implements listeners.bus.BusListener. Everything runs on one event loop; run() owns every task.

    `told` is called when clients have to hear `stale` or `fresh`: everybody, when the way from Postgres is in
    doubt, or some, when their topics are.
    """

    def __init__(
        self,
        feed: Feed,
        metrics: GatewayMetrics,
        settings: HubSettings,
        *,
        told: Told,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.freshness = Freshness(settings.canary_s, wall_ms=int(time.time() * 1000))
        self.doubts = Doubts(self.freshness.patience_s)
        self._feed = feed
        self._metrics = metrics
        self._settings = settings
        self._told = told
        self._clock = clock
        self._topics: dict[str, TopicState] = {}
        self._loads = Loads(settings.max_loads)
        self._generation: str | None = None
        self._joiner = Joiner(
            feed,
            SnapshotCache(feed, metrics),
            metrics,
            self,
            low_stock=settings.low_stock,
            patience_s=settings.patience_s,
            losses=lambda: self.freshness.losses,
        )
        self._tasks: asyncio.TaskGroup | None = None
        self._compare_now = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                tasks.create_task(self._watch_canary(), name="canary")
                await self._compare()
            finally:
                self._tasks = None

    # --- clients

    def subscribe(self, delivery: Delivery) -> None:
        """Answers with a snapshot or from the delivery's resume position, then keeps it current."""
        name, scope = delivery.subscription.topic, delivery.subscription.scope
        if delivery.resume is not None:
            delivery.resume = without_scope(delivery.resume, scope)
        topic = self._topics.get(name)
        if topic is None:
            if not self._loads.begin(name, delivery.outgoing.holder):
                delivery.outgoing.refuse(delivery.subscription, _too_many_loads(name))
                return
            topic = self._topics[name] = TopicState(parse_topic(name), self._make_fanout)
            self._feed.subscribe_nowait(name)
        topic.waiting[delivery] = None
        if not self._joiner.serve_nowait(topic, delivery):
            self.settle(topic)
        elif delivery.subscription.state is not SubscriptionState.LIVE:
            self.doubts.watch(topic)

    def leave(self, delivery: Delivery) -> None:
        """The subscription is closed."""
        delivery.outgoing.forget(delivery)
        topic = self._topics.get(delivery.subscription.topic)
        if topic is not None:
            topic.leave(delivery)
            self._drop_if_unused(topic)

    def topic(self, name: str) -> TopicState | None:
        """Where this replica stands in a topic; None: nobody follows it here."""
        return self._topics.get(name)

    # --- the bus

    def message(self, envelope: Envelope) -> None:
        if isinstance(envelope, Beat):
            if envelope.generation != self._generation:
                self._new_generation(envelope.generation)
            self._tell(self.freshness.beat(envelope.as_of_ms, self._clock()))
            return
        if isinstance(envelope, NewGeneration):
            self._new_generation(envelope.generation)
            return
        topic = self._topics.get(envelope.topic)
        if topic is None:
            return
        if isinstance(envelope, Changed):
            outcome = topic.receive(envelope)
            if outcome is Outcome.GAP:
                self._metrics.gaps += 1
                self.repair(topic)
            elif outcome is Outcome.OTHER_EPOCH:
                self._restart(topic)
        elif isinstance(envelope, Voided) or envelope.epoch != topic.epoch:
            self._restart(topic)

    def lost(self) -> None:
        self.freshness.lost(self._clock())

    def restored(self) -> None:
        """Connected, or connected again: whatever was missed shows in the positions."""
        self.freshness.restored()
        self._compare_now.set()

    def _new_generation(self, generation: str) -> None:
        """Every topic is void, in a cluster those of a bucket; it may be known from a beat alone."""
        # The first one that is heard may have begun after topics were taken from the one before.
        if self._generation is not None or self._topics:
            log.info("new generation", generation=generation)
            self.freshness.doubt(self._clock())
            self._compare_now.set()
        self._generation = generation

    # --- tasks

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        if self._tasks is None:
            work.close()  # draining: nobody is served any more
        else:
            self._tasks.create_task(work)

    def settle(self, topic: TopicState) -> None:
        if not topic.settling:
            topic.settling = True
            self.doubts.watch(topic)
            self.spawn(self._settle(topic))

    async def _settle(self, topic: TopicState) -> None:
        try:
            await self._joiner.settle(topic)
        finally:
            self._loads.end(topic.name)
        if topic.has_hole:
            self.repair(topic)
        self._drop_if_unused(topic)

    def _restart(self, topic: TopicState) -> None:
        topic.restart()
        if topic.waiting:
            self.settle(topic)

    def repair(self, topic: TopicState) -> None:
        if not topic.repairing:
            topic.repairing = True
            self.doubts.watch(topic)
            self.spawn(self._fill_hole(topic))

    async def _fill_hole(self, topic: TopicState) -> None:
        """Brings the topic up to date from its log where that reaches back, else by new snapshots."""
        try:
            while topic.epoch is not None and topic.has_hole and not topic.unused:
                position = Position(topic.epoch, topic.seq)
                try:
                    changes = await self._feed.log_since(topic.name, position)
                except ProtocolError as error:
                    log.warning("repair has to wait", topic=topic.name, code=error.code.value)
                    await _back_off(error)
                    continue
                if topic.epoch != position.epoch:
                    continue  # entered anew meanwhile
                if not changes:  # out of the log's reach, or the store has gone back: nothing to go on from
                    self._metrics.snapshot_repairs += 1
                    self._restart(topic)
                    return
                for change in changes:
                    topic.receive(change)
                self._metrics.log_repairs += 1
        finally:
            topic.repairing = False

    async def _watch_canary(self) -> None:
        period = self._settings.canary_s / 4
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(period)
            self._tell(self.freshness.check(self._clock()))
            self._watch_doubts(loop.time())

    def _watch_doubts(self, now: float) -> None:
        stale = self.freshness.stale
        if stale or not self.freshness.in_doubt:
            served = self.doubts.clear()
            if not stale:  # else they hear it with everybody
                self._tell_some(Transition.FRESH, served)
        self._tell_some(Transition.STALE, self.doubts.sweep(now, doubt=not stale))

    async def _compare(self) -> None:
        """Compares this replica's positions with the store's: at once after a lost link, and always slowly.

        The same question keeps followed topics from expiring.
        """
        while True:
            try:
                async with asyncio.timeout(self._settings.compare_s):
                    await self._compare_now.wait()
            except TimeoutError:
                pass
            self._compare_now.clear()
            comparison = self.freshness.comparing()
            try:
                names = list(self._topics)
                for start in range(0, len(names), COMPARED_AT_ONCE):
                    await self._compare_some(names[start : start + COMPARED_AT_ONCE])
            except ProtocolError as error:
                log.warning("positions can not be compared", code=error.code.value)
                await _back_off(error)
                self._compare_now.set()
                continue
            self._tell(self.freshness.verified(comparison, self._clock()))

    async def _compare_some(self, names: list[str]) -> None:
        # A topic that is entered anew while the store is asked has been compared by that.
        asked = [(topic, topic.epoch) for name in names if (topic := self._topics.get(name)) is not None]
        positions = await self._feed.positions([topic.name for topic, _ in asked])
        if any(p.epoch == t.epoch and p.seq > t.seq for t, _ in asked if (p := positions.get(t.name))):
            await asyncio.sleep(GRACE_S)
        for topic, epoch in asked:
            if topic.epoch is None or topic.epoch != epoch:
                continue
            position = positions.get(topic.name)
            if position is None or position.epoch != epoch:
                self._restart(topic)
            elif position.seq > topic.seq:
                self._metrics.gaps += 1
                topic.behind_of = max(topic.behind_of, position.seq)
                self.repair(topic)

    # --- helpers

    def _make_fanout(self, name: str, dialect: Dialect) -> Fanout:
        return Fanout(name, dialect, self._metrics, flush_s=self._settings.flush_s)

    def _drop_if_unused(self, topic: TopicState) -> None:
        if topic.unused and not topic.settling and self._topics.get(topic.name) is topic:
            del self._topics[topic.name]
            self._feed.unsubscribe_nowait(topic.name)

    def _tell(self, transition: Transition | None) -> None:
        if transition is None:
            return
        if transition is Transition.FRESH:
            self.doubts.doubt_all()
        log.info(transition.name.lower(), as_of_ms=self.freshness.as_of_ms, in_doubt=len(self.doubts))
        self._told(transition, None)

    def _tell_some(self, transition: Transition, outgoings: Collection[Outgoing]) -> None:
        if outgoings:
            log.info("told some", transition=transition.name.lower(), connections=len(outgoings))
            self._told(transition, outgoings)

    def statistics(self) -> dict[str, int]:
        subscriptions = sum(topic.size for topic in self._topics.values())
        return {"topics": len(self._topics), "subscriptions": subscriptions}


def _too_many_loads(name: str) -> ProtocolError:
    text = "too many topics at once that have to be loaded; subscribe again later"
    return ProtocolError(ErrorCode.RATE_LIMITED, text, topic=name, retry_after_ms=1000)


async def _back_off(error: ProtocolError) -> None:
    """Waits for a server that fails, so long that many replicas do not come back at the same moment."""
    await asyncio.sleep(min(error.retry_after_ms or 1000, 1000) / 1000 * (0.5 + random.random() / 2))
