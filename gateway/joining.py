"""How a subscription is answered: by a snapshot, or by what was missed since a position.

Subscribe first, then snapshot: a delivery joins the broadcasts, which mark its items dirty, before its
snapshot is read; so nothing is missed between the two, and what it is sent afterwards is never older than
the snapshot (gateway.fanout.Fanout).
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Final

import structlog

from gateway.metrics import GatewayMetrics
from gateway.outgoing import Delivery
from gateway.ports import Feed, OpenedTopic, StoredTopic
from gateway.scoping import Scoping, seen_of, wire_epoch
from gateway.snapshots import EncodedSnapshot, LogCache, SnapshotCache
from gateway.streaming import Streams
from gateway.tasks import TaskOwner
from gateway.topic_state import TopicState
from protocol.envelope import Changed, Position
from protocol.errors import ErrorCode, ProtocolError
from protocol.principal import Scope, View
from protocol.public_view import PublicView
from protocol.subscription import Signal

__all__ = ["Joiner"]

# Topics new to this replica that are opened at the same time: whoever asks for thousands, and leaves them,
# must not fill the loop with their tasks. And how long a turn is waited for, in s: the ones before may hang.
OPENING: Final = 64
TURN_S: Final = 1.0
# How long messages that are on their way are waited for at a time, in s.
CATCH_UP_S: Final = 0.02
# Deliveries that are served in one turn of the loop: a topic that is loaded anew has thousands of them.
SERVED_AT_ONCE: Final = 50

log = structlog.get_logger(__name__)


class Joiner:
    """Serves those who wait for a topic; one settle() a topic at a time, so that they share what is read."""

    def __init__(
        self,
        feed: Feed,
        cache: SnapshotCache,
        metrics: GatewayMetrics,
        tasks: TaskOwner,
        *,
        low_stock: int,
        patience_s: float,
        losses: Callable[[], int],
    ) -> None:
        """`patience_s`: how long somebody who asks for the first time waits for servers that fail. `losses`
        tells, by a number that rises, when messages may have been missed."""
        self._feed = feed
        self._cache = cache
        self._logs = LogCache()
        self._streams = Streams(feed, metrics, tasks)
        self._metrics = metrics
        self._tasks = tasks
        self._low_stock = low_stock
        self._patience_s = patience_s
        self._losses = losses
        self._opening = asyncio.Semaphore(OPENING)

    def serve_nowait(self, topic: TopicState, delivery: Delivery) -> bool:
        """Serves somebody who waits for the topic with what is here already, if it is.

        False: settle() has to. Nothing is awaited, so nothing comes between finding it and joining.
        """
        if (
            topic.epoch is None
            or topic.doubtful
            or topic.settling
            or not self._feed.is_subscribed(topic.name)
        ):
            return False
        resume, dialect, scope = delivery.resume, delivery.outgoing.dialect, delivery.subscription.scope
        if scope is not None and (topic.scoping is None or not topic.scoping.known):
            return False
        if delivery.subscription.view is View.PUBLIC:
            view = topic.projection
            if resume is not None or view is None or topic.seq < topic.handed_seq:
                return False
            topic.join(delivery)
            self._begin_public(topic, delivery, view)
            return True
        if resume is not None:
            changes = self._known_since(topic, resume, scope)
            if changes is None:
                return False
            topic.join(delivery)
            self._resume_from(topic, delivery, resume, changes)
            return True
        encoded = self._cache.current(topic, dialect, scope)
        if encoded is None:
            return False
        topic.join(delivery)
        self._begin(topic, delivery, encoded)
        return True

    async def settle(self, topic: TopicState) -> None:
        """Serves everybody who waits for the topic, until nobody does."""
        try:
            while topic.waiting:
                try:
                    await self._serve(topic)
                except ProtocolError as error:
                    self._tell(topic, error)
                    if topic.waiting:
                        await asyncio.sleep(min(error.retry_after_ms or 1000, 1000) / 1000 * random.random())
        except Exception:
            log.exception("topic failed", topic=topic.name)
            for delivery in dict.fromkeys((*topic.waiting, *topic.deliveries())):
                self._refuse(
                    topic, delivery, ProtocolError(ErrorCode.INTERNAL, "try again", topic=topic.name)
                )
        finally:
            topic.settling = False

    def _tell(self, topic: TopicState, error: ProtocolError) -> None:
        """Those who ask for the first time are told, after a while; those who were served before wait on, and
        hear `stale` while they do (gateway.doubts)."""
        temporary = error.code is ErrorCode.UNAVAILABLE
        oldest = asyncio.get_running_loop().time() - self._patience_s
        for delivery in list(topic.waiting):
            if not temporary or not (delivery.returning or delivery.waiting_since > oldest):
                self._refuse(topic, delivery, error)

    def _refuse(self, topic: TopicState, delivery: Delivery, error: ProtocolError) -> None:
        topic.leave(delivery)
        delivery.outgoing.forget(delivery)
        delivery.outgoing.refuse(delivery.subscription, error)

    async def _serve(self, topic: TopicState) -> None:
        losses = self._losses()
        await self._feed.wait_subscribed(topic.name)
        stored: StoredTopic | None = None
        if topic.epoch is None:
            async with self._turn():
                if not topic.waiting:
                    return  # everybody has left meanwhile
                opened, stored = await self._open(topic)
            if self._losses() != losses:
                return  # what came after `opened` may be lost, and no comparison would look for it
            self._adopt(topic, opened)
        elif topic.doubtful:
            await self._reopen(topic)
            return
        batch = list(topic.waiting)
        if not await self._keep_up(topic, batch):
            return
        for delivery in batch:
            if delivery in topic.waiting:
                topic.join(delivery)
        if any(d.subscription.scope is not None for d in batch) and not await self._learn(topic, stored):
            return
        await self._resume(topic, [d for d in batch if d.subscription.view is View.EXACT and d.resume])
        exact = [d for d in batch if d in topic.waiting and d.subscription.view is View.EXACT]
        if exact:
            await self._send_exact(topic, exact, stored)
        public = [d for d in batch if d in topic.waiting and d.subscription.view is View.PUBLIC]
        if public:
            await self._send_public(topic, public, stored)

    async def _open(self, topic: TopicState) -> tuple[OpenedTopic, StoredTopic | None]:
        """The topic's items come along if somebody has to be sent them all."""
        if any(delivery.resume is None for delivery in topic.waiting):
            return await self._feed.enter(topic.topic)
        return await self._feed.ensure(topic.topic), None

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(TURN_S):
                await self._opening.acquire()
        except TimeoutError:
            yield
            return
        try:
            yield
        finally:
            self._opening.release()

    def _adopt(self, topic: TopicState, opened: OpenedTopic) -> None:
        topic.large = opened.items > SnapshotCache.MAX_ITEMS
        for message in topic.adopt(opened.epoch, opened.seq):
            topic.receive(message)  # a hole shows in has_hole; the hub's comparison repairs it

    async def _keep_up(self, topic: TopicState, batch: list[Delivery]) -> bool:
        """Whoever resumes from beyond our position was further elsewhere: what it gets must not be older.

        The store is asked once, for a client may claim what it likes. False: our epoch has ended.
        """
        ahead = [
            resume
            for resume in (delivery.resume for delivery in batch)
            if resume is not None and (resume.epoch != topic.epoch or resume.seq > topic.seq)
        ]
        if not ahead:
            return True
        position = (await self._feed.positions([topic.name])).get(topic.name)
        if position is None or position.epoch != topic.epoch:
            topic.restart()
            return False
        claimed = max((resume.seq for resume in ahead if resume.epoch == topic.epoch), default=0)
        topic.prove(min(claimed, position.seq))
        if topic.has_hole:
            self._tasks.repair(topic)
        for delivery in batch:
            if delivery.subscription.view is View.PUBLIC:
                delivery.resume = None  # it has served: the log holds nothing of the public view
        return True

    async def _resume(self, topic: TopicState, deliveries: list[Delivery]) -> None:
        """Whoever was complete at a position that the log still reaches gets what came after it."""
        resumes = [(delivery, delivery.resume) for delivery in deliveries if delivery.resume is not None]
        await self._read_log(topic, {resume for _, resume in resumes})
        for number, (delivery, resume) in enumerate(resumes, 1):
            changes = self._known_since(topic, resume, delivery.subscription.scope)
            if delivery not in topic.waiting:
                delivery.resume = None
            elif changes is None:
                self._answer_by_snapshot(topic, delivery)
            else:
                self._resume_from(topic, delivery, resume, changes)
            if number % SERVED_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _answer_by_snapshot(self, topic: TopicState, delivery: Delivery) -> None:
        """Which costs rows, as one costs that is asked for: a bad position is no way around the limit."""
        delivery.resume = None
        error = None if delivery.returning else delivery.outgoing.rows_error()
        if error is not None:
            self._refuse(topic, delivery, error)

    async def _read_log(self, topic: TopicState, positions: Collection[Position]) -> None:
        """From the earliest of the positions that it reaches: the others are on the way from there."""
        epoch = topic.epoch
        wanted = sorted(seq for seq in {p.seq for p in positions if p.epoch == epoch})
        if epoch is None or not wanted or self._logs.since(topic, wanted[0]) is not None:
            return
        first, last, middle = 0, len(wanted), 0
        while first < last:
            changes = await self._feed.log_since(topic.name, Position(epoch, wanted[middle]))
            if changes is None:
                first = middle + 1
            else:
                self._logs.put(topic, epoch, wanted[middle], changes)
                last = middle
            middle = (first + last) // 2

    def _known_since(
        self, topic: TopicState, position: Position, scope: Scope | None
    ) -> Sequence[Changed] | None:
        """What a client at this position has missed, as far as it is here and can be told."""
        if position.epoch != topic.epoch:
            return None
        if position.seq == topic.seq == topic.handed_seq:
            return ()
        changes = self._logs.since(topic, position.seq)
        return changes if changes is None or scope is None else seen_of(changes, scope)

    def _resume_from(
        self, topic: TopicState, delivery: Delivery, position: Position, changes: Sequence[Changed]
    ) -> None:
        delivery.resume = None
        del topic.waiting[delivery]
        subscription, outgoing = delivery.subscription, delivery.outgoing
        subscription.epoch, subscription.seq = wire_epoch(position.epoch, subscription.scope), position.seq
        subscription.signal(Signal.RESUMED)
        answer = outgoing.dialect.resumed(subscription.id, topic.name, subscription.epoch, position.seq)
        outgoing.send("resumed", answer)
        for change in changes:
            delivery.conflate(change.items, position.seq)
        delivery.seq = position.seq
        ready_seq = changes[-1].seq if changes else position.seq
        topic.handed_seq = max(topic.handed_seq, ready_seq)
        topic.complete(delivery, ready_seq)

    async def _send_exact(
        self, topic: TopicState, deliveries: list[Delivery], stored: StoredTopic | None
    ) -> None:
        if not topic.large:
            for dialect, scope in {(d.outgoing.dialect, d.subscription.scope) for d in deliveries}:
                encoded = await self._cache.encoded(topic, dialect, stored, scope)
                if encoded is None:
                    await self._reopen(topic)
                    return
                sharing = [
                    d for d in deliveries if d.outgoing.dialect is dialect and d.subscription.scope == scope
                ]
                self._metrics.snapshot_hits += len(sharing) - 1
                for number, delivery in enumerate(sharing, 1):
                    self._begin(topic, delivery, encoded)
                    if number % SERVED_AT_ONCE == 0:
                        await asyncio.sleep(0)
            return
        # The store's seq and not ours: earlier snapshots may have come from there while we lagged behind.
        position = (await self._feed.positions([topic.name])).get(topic.name)
        if position is None or position.epoch != topic.epoch:
            await self._reopen(topic)
            return
        for delivery in deliveries:
            if delivery in topic.waiting:
                self._streams.begin_exact(topic, delivery, position)

    async def _reopen(self, topic: TopicState) -> None:
        """What was loaded is gone, or has outgrown one read."""
        topic.doubtful = False
        opened = await self._feed.ensure(topic.topic)
        if opened.epoch == topic.epoch:
            topic.large = True
        else:
            topic.restart()

    async def _send_public(
        self, topic: TopicState, deliveries: list[Delivery], stored: StoredTopic | None
    ) -> None:
        if topic.projection is None and not await self._project(topic, stored):
            return
        if topic.seq < topic.handed_seq:
            # Clients have snapshots from the store that are ahead of what the bus has brought; a public
            # snapshot made of the latter might take one of them back.
            topic.prove(topic.handed_seq)
            self._tasks.repair(topic)
            await asyncio.sleep(CATCH_UP_S)
            return
        view = topic.projection
        for number, delivery in enumerate(deliveries, 1):
            if view is not None and view is topic.projection and delivery in topic.waiting:
                self._begin_public(topic, delivery, view)
            if number % SERVED_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _begin_public(self, topic: TopicState, delivery: Delivery, view: PublicView) -> None:
        if len(view) > SnapshotCache.MAX_ITEMS:
            self._streams.begin_public(topic, delivery, view)
        else:
            self._begin(topic, delivery, self._cache.public(topic, delivery.outgoing.dialect))

    async def _project(self, topic: TopicState, stored: StoredTopic | None) -> bool:
        """Reads the whole topic once and computes the public view from it; changes keep it current then."""
        epoch = topic.epoch
        changes = topic.begin_projection()
        view = PublicView(topic.topic, self._low_stock)
        if stored is not None and stored.epoch == epoch and stored.seq >= topic.seq:
            view.add(stored.items)
        elif not await self._read_into(view, topic) or topic.epoch != epoch:
            if topic.epoch == epoch:
                await self._reopen(topic)
            return False
        for _ in view.conclude():
            await self._streams.turn()  # a topic of 200,000 items takes more than a second
        return topic.project(view, changes)

    async def _learn(self, topic: TopicState, stored: StoredTopic | None) -> bool:
        """Whose the topic's items are, so that changes can be shown to those who may see only part of it."""
        if topic.scoping is not None and topic.scoping.known:
            return True
        scoping, epoch = Scoping(), topic.epoch or ""
        topic.scoping = scoping
        if stored is not None and (stored.epoch != epoch or stored.seq < topic.seq):
            stored = None
        position = await self._streams.read_owners(scoping.owners, topic, stored)
        if topic.scoping is not scoping or topic.epoch != epoch:
            return False
        if position is None or position.epoch != epoch:
            await self._reopen(topic)
            return False
        # From here on no snapshot may be older than what was read: what changed until then is told to nobody.
        topic.prove(position.seq)
        if topic.has_hole:
            self._tasks.repair(topic)
        scoping.conclude()
        return True

    async def _read_into(self, view: PublicView, topic: TopicState) -> bool:
        """False: its epoch has ended, or it has outgrown one read."""
        if not topic.large:
            stored = await self._feed.read(topic.name)
            if stored is None or stored.epoch != topic.epoch:
                return False
            view.add(stored.items)
            return True
        async for page in self._streams.pages(topic.name, topic.epoch or ""):
            view.add(page)
        return True

    def _begin(self, topic: TopicState, delivery: Delivery, encoded: EncodedSnapshot) -> None:
        """Hands an encoded snapshot to the connection, which joined before it was found: what has come since
        follows."""
        if delivery not in topic.waiting or topic.epoch != encoded.epoch:
            return
        topic.begin_snapshot(delivery, encoded.seq)
        outgoing = delivery.outgoing
        outgoing.charge_rows(delivery, encoded.rows)
        head = outgoing.dialect.snapshot_head(delivery.subscription.id)

        def complete(delivery: Delivery) -> None:
            topic.end_snapshot(delivery, encoded.seq)

        outgoing.transfer(delivery, head, encoded.tails, complete)
