"""How a subscription is answered: by a snapshot, or by what was missed since a position.

Subscribe first, then snapshot: a delivery joins the broadcasts, which mark its items dirty, before its
snapshot is read; so nothing is missed between the two, and what it is sent afterwards is never older than
the snapshot (gateway.fanout.Fanout).
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Final, Protocol

import structlog

from gateway.metrics import GatewayMetrics
from gateway.outgoing import Delivery
from gateway.ports import Feed, OpenedTopic
from gateway.scoping import Scoping, wire_epoch
from gateway.snapshots import EncodedSnapshot, SnapshotCache
from gateway.topic_state import TopicState
from protocol.envelope import Position
from protocol.errors import ErrorCode, ProtocolError
from protocol.items import Item
from protocol.principal import View
from protocol.public_view import PublicView
from protocol.scoped_view import Owners, replay, shown
from protocol.subscription import Signal, SubscriptionState

__all__ = ["Joiner", "TaskOwner"]

# Large snapshots that are read from the store at the same time; a client that does not read holds none.
PAGE_READERS: Final = 8
# Topics new to this replica that are opened at the same time: whoever asks for thousands, and leaves them,
# must not fill the loop with their tasks. And how long a turn is waited for, in s: the ones before may hang.
OPENING: Final = 16
TURN_S: Final = 1.0
# How long messages that are on their way are waited for at a time, in s.
CATCH_UP_S: Final = 0.02

log = structlog.get_logger(__name__)


class TaskOwner(Protocol):
    """Who runs what can not be done at once (gateway.hub.Hub)."""

    def spawn(self, work: Coroutine[None, None, None]) -> None: ...
    def settle(self, topic: TopicState) -> None: ...
    def repair(self, topic: TopicState) -> None: ...


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
        self._metrics = metrics
        self._tasks = tasks
        self._low_stock = low_stock
        self._patience_s = patience_s
        self._losses = losses
        self._pages = asyncio.Semaphore(PAGE_READERS)
        self._opening = asyncio.Semaphore(OPENING)

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
        if topic.epoch is None:
            async with self._turn():
                if not topic.waiting:
                    return  # everybody has left meanwhile
                opened = await self._feed.ensure(topic.topic)
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
        if any(d.subscription.scope is not None for d in batch) and not await self._learn_owners(topic):
            return
        await self._resume(topic, [d for d in batch if d.subscription.view is View.EXACT and d.resume])
        exact = [d for d in batch if d in topic.waiting and d.subscription.view is View.EXACT]
        if exact:
            await self._send_exact(topic, exact)
        public = [d for d in batch if d in topic.waiting and d.subscription.view is View.PUBLIC]
        if public:
            await self._send_public(topic, public)

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
        for position in {d.resume for d in deliveries if d.resume is not None}:
            changes = None
            if position.epoch == topic.epoch:
                changes = await self._feed.log_since(topic.name, position)
            for delivery in [d for d in deliveries if d.resume == position]:
                delivery.resume = None
                if changes is None or position.epoch != topic.epoch or delivery not in topic.waiting:
                    continue  # answered by a snapshot
                scope = delivery.subscription.scope
                missed = [change.items for change in changes]
                seen = missed if scope is None else replay(scope, missed)
                if seen is None:
                    continue
                del topic.waiting[delivery]
                subscription = delivery.subscription
                subscription.epoch, subscription.seq = (
                    wire_epoch(position.epoch, subscription.scope),
                    position.seq,
                )
                subscription.signal(Signal.RESUMED)
                outgoing = delivery.outgoing
                outgoing.send(
                    "resumed",
                    outgoing.dialect.resumed(subscription.id, topic.name, subscription.epoch, position.seq),
                )
                for items in seen:
                    delivery.conflate(items, position.seq)
                delivery.seq = position.seq
                ready_seq = changes[-1].seq if changes else position.seq
                topic.handed_seq = max(topic.handed_seq, ready_seq)
                topic.complete(delivery, ready_seq)

    async def _send_exact(self, topic: TopicState, deliveries: list[Delivery]) -> None:
        if not topic.large:
            for dialect, scope in {(d.outgoing.dialect, d.subscription.scope) for d in deliveries}:
                encoded = await self._cache.encoded(topic, dialect, scope)
                if encoded is None:
                    await self._reopen(topic)
                    return
                sharing = [
                    d for d in deliveries if d.outgoing.dialect is dialect and d.subscription.scope == scope
                ]
                self._metrics.snapshot_hits += len(sharing) - 1
                for delivery in sharing:
                    self._begin(topic, delivery, encoded)
            return
        # The store's seq and not ours: earlier snapshots may have come from there while we lagged behind.
        position = (await self._feed.positions([topic.name])).get(topic.name)
        if position is None or position.epoch != topic.epoch:
            await self._reopen(topic)
            return
        for delivery in deliveries:
            if delivery in topic.waiting:
                del topic.waiting[delivery]
                self._snapshot_begins(topic, delivery, position.seq)
                self._tasks.spawn(self._stream(topic, delivery, *position))

    async def _reopen(self, topic: TopicState) -> None:
        """What was loaded is gone, or has outgrown one read."""
        topic.doubtful = False
        opened = await self._feed.ensure(topic.topic)
        if opened.epoch == topic.epoch:
            topic.large = True
        else:
            topic.restart()

    async def _send_public(self, topic: TopicState, deliveries: list[Delivery]) -> None:
        if topic.projection is None and not await self._project(topic):
            return
        if topic.seq < topic.handed_seq:
            # Clients have snapshots from the store that are ahead of what the bus has brought; a public
            # snapshot made of the latter might take one of them back.
            topic.prove(topic.handed_seq)
            self._tasks.repair(topic)
            await asyncio.sleep(CATCH_UP_S)
            return
        for delivery in deliveries:
            if delivery in topic.waiting:
                encoded = self._cache.public(topic, delivery.outgoing.dialect)
                self._begin(topic, delivery, encoded)

    async def _project(self, topic: TopicState) -> bool:
        """Reads the whole topic once and computes the public view from it; changes keep it current then."""
        epoch = topic.epoch
        changes = topic.begin_projection()
        view = PublicView(topic.topic, self._low_stock)
        items = await self._read_all(topic)
        if items is None or epoch is None or topic.epoch != epoch:
            if topic.epoch == epoch:
                await self._reopen(topic)
            return False
        for _ in view.load_steps(items):
            await asyncio.sleep(0)  # a topic of 200,000 items takes more than a second
        return topic.project(view, changes)

    async def _learn_owners(self, topic: TopicState) -> bool:
        """Reads the whole topic once, so that changes can be shown to those who may see only part of it."""
        if topic.scoping is not None and topic.scoping.known:
            return True
        scoping, epoch = Scoping(), topic.epoch or ""
        topic.scoping = scoping
        owners = Owners()
        if topic.large:
            async with self._pages:
                async for page in self._feed.pages(topic.name, epoch):
                    owners.load(page)
            position = (await self._feed.positions([topic.name])).get(topic.name)
        else:
            stored = await self._feed.read(topic.name)
            position = None if stored is None else Position(stored.epoch, stored.seq)
            for _ in owners.load_steps(() if stored is None else stored.items):
                await asyncio.sleep(0)
        if topic.scoping is not scoping or topic.epoch != epoch:
            return False
        if position is None or position.epoch != epoch:
            await self._reopen(topic)
            return False
        # From here on no snapshot may be older than what was read: what changed until then is told to nobody.
        topic.prove(position.seq)
        if topic.has_hole:
            self._tasks.repair(topic)
        scoping.finish(owners)
        return True

    async def _read_all(self, topic: TopicState) -> Iterable[Item] | None:
        if not topic.large:
            stored = await self._feed.read(topic.name)
            return stored.items if stored is not None and stored.epoch == topic.epoch else None
        items: list[Item] = []
        async with self._pages:
            async for page in self._feed.pages(topic.name, topic.epoch or ""):
                items.extend(page)
        return items

    def _begin(self, topic: TopicState, delivery: Delivery, encoded: EncodedSnapshot) -> None:
        """Hands an encoded snapshot to the connection. No await since it was found: nothing is in between."""
        if delivery not in topic.waiting or topic.epoch is None:
            return
        del topic.waiting[delivery]
        self._snapshot_begins(topic, delivery, encoded.seq)
        outgoing = delivery.outgoing
        outgoing.snapshot_rows += encoded.rows
        head = outgoing.dialect.snapshot_head(delivery.subscription.id)

        def complete(delivery: Delivery) -> None:
            self._complete(topic, delivery, encoded.seq)

        outgoing.transfer(delivery, head, encoded.tails, complete)

    def _snapshot_begins(self, topic: TopicState, delivery: Delivery, seq: int) -> None:
        subscription = delivery.subscription
        topic.handed_seq = max(topic.handed_seq, seq)
        subscription.epoch, subscription.seq = wire_epoch(topic.epoch or "", subscription.scope), seq
        subscription.signal(Signal.SNAPSHOT_BEGINS)
        delivery.seq = seq
        if delivery.fanout is not None and delivery.fanout.sent_seq <= seq:
            delivery.clear_dirty()

    def _complete(self, topic: TopicState, delivery: Delivery, ready_seq: int) -> None:
        if delivery.subscription.state is SubscriptionState.SENDING:
            delivery.subscription.signal(Signal.SNAPSHOT_ENDS)
            topic.complete(delivery, ready_seq)

    async def _stream(self, topic: TopicState, delivery: Delivery, epoch: str, seq: int) -> None:
        """A large snapshot, read page by page as the client takes it: a slow client pins one page."""
        started = time.perf_counter()
        try:
            ready_seq = await self._send_pages(topic, delivery, epoch, seq)
        except ProtocolError as error:
            log.info("snapshot starts over", topic=topic.name, code=error.code.value)
            topic.doubtful = True
            ready_seq = None
        self._metrics.snapshot_load.observe(time.perf_counter() - started)
        if ready_seq is not None:
            self._complete(topic, delivery, ready_seq)
        elif delivery.subscription.state is SubscriptionState.SENDING and delivery.fanout is not None:
            topic.send_back(delivery)
            self._tasks.settle(topic)

    async def _send_pages(self, topic: TopicState, delivery: Delivery, epoch: str, seq: int) -> int | None:
        """Returns the position that the parts may reach up to; None if the epoch has ended meanwhile."""
        outgoing, subscription = delivery.outgoing, delivery.subscription
        dialect = outgoing.dialect
        head = dialect.snapshot_head(subscription.id)
        held: list[Item] = []
        part = 0

        async def send(items: list[Item], *, last: bool) -> bool:
            nonlocal part
            if not await outgoing.wait_writable() or subscription.state is not SubscriptionState.SENDING:
                return False
            if topic.epoch != epoch:
                return False
            part += 1
            outgoing.snapshot_rows += len(items)
            tail = dialect.snapshot_tail(topic.name, subscription.epoch, seq, part, last, items)
            outgoing.send("snapshot", head + tail)
            return True

        pages = self._feed.pages(topic.name, epoch)
        while True:
            async with self._pages:
                page = await anext(pages, None)
            if page is None:
                break
            if subscription.scope is not None:
                page = shown(subscription.scope, page)
            *full, held = [*dialect.snapshot_groups([*held, *page])] or [[]]
            for group in full:
                if not await send(group, last=False):
                    return None
        position = (await self._feed.positions([topic.name])).get(topic.name)
        if position is None or position.epoch != epoch or not await send(held, last=True):
            return None
        return position.seq
