"""Large snapshots, sent page by page as the client takes them: a slow client pins one page."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final

import structlog

from gateway.metrics import GatewayMetrics
from gateway.outgoing import Delivery
from gateway.ports import Feed, StoredTopic
from gateway.tasks import TaskOwner
from gateway.topic_state import TopicState
from protocol.envelope import Position
from protocol.errors import ProtocolError
from protocol.items import Item
from protocol.public_view import PublicView
from protocol.scoped_view import Owners, shown
from protocol.subscription import SubscriptionState

__all__ = ["Streams"]

# Pages that are read from the store at the same time; a client that does not read holds none. Each answer is
# some milliseconds of work for the loop, and all of them may come in one turn.
PAGE_READERS: Final = 2

log = structlog.get_logger(__name__)


class Streams:
    """Reads and sends what is too large to be encoded as a whole and shared.

    One step of work a turn of the loop, however many streams there are: the others of the process wait for
    a page at the most.
    """

    def __init__(self, feed: Feed, metrics: GatewayMetrics, tasks: TaskOwner) -> None:
        self._feed = feed
        self._metrics = metrics
        self._tasks = tasks
        self._readers = asyncio.Semaphore(PAGE_READERS)
        self._step = asyncio.Lock()

    def begin_exact(self, topic: TopicState, delivery: Delivery, position: Position) -> None:
        """`position`: the store's. What the parts hold may be newer, as the topic moves while it is read."""

        async def reached() -> int | None:
            now = (await self._feed.positions([topic.name])).get(topic.name)
            return now.seq if now is not None and now.epoch == position.epoch else None

        self._begin(topic, delivery, position, self.pages(topic.name, position.epoch), reached)

    def begin_public(self, topic: TopicState, delivery: Delivery, view: PublicView) -> None:
        """`view`: the topic's projection, which changes while it is sent."""

        async def reached() -> int | None:
            return topic.seq

        self._begin(topic, delivery, Position(topic.epoch or "", topic.seq), self._projected(view), reached)

    async def pages(self, name: str, epoch: str) -> AsyncGenerator[Sequence[Item], None]:
        """As Feed.pages, a few at a time."""
        pages = self._feed.pages(name, epoch)
        while True:
            async with self._readers:
                page = await anext(pages, None)
            if page is None:
                return
            yield page

    async def read_owners(
        self, owners: Owners, topic: TopicState, stored: StoredTopic | None
    ) -> Position | None:
        """Reads the whole topic, unless `stored` is that; where it stood then. None: not loaded any more."""
        if topic.large:
            async for page in self.pages(topic.name, topic.epoch or ""):
                owners.load(page)
            return (await self._feed.positions([topic.name])).get(topic.name)
        if stored is None:
            stored = await self._feed.read(topic.name)
        if stored is None:
            return None
        owners.load(stored.items)
        return Position(stored.epoch, stored.seq)

    async def turn(self) -> None:
        """Returns in a turn of the loop in which no other stream does anything."""
        async with self._step:
            await asyncio.sleep(0)

    async def _projected(self, view: PublicView) -> AsyncGenerator[Sequence[Item], None]:
        pages = view.pages()
        while True:
            await self.turn()
            page = next(pages, None)
            if page is None:
                return
            yield page

    def _begin(
        self,
        topic: TopicState,
        delivery: Delivery,
        position: Position,
        pages: AsyncGenerator[Sequence[Item], None],
        reached: Callable[[], Awaitable[int | None]],
    ) -> None:
        topic.begin_snapshot(delivery, position.seq)
        self._tasks.spawn(self._stream(topic, delivery, position, pages, reached))

    async def _stream(
        self,
        topic: TopicState,
        delivery: Delivery,
        position: Position,
        pages: AsyncGenerator[Sequence[Item], None],
        reached: Callable[[], Awaitable[int | None]],
    ) -> None:
        started = time.perf_counter()
        try:
            ready_seq = await self._send(topic, delivery, position, pages, reached)
        except ProtocolError as error:
            log.info("snapshot starts over", topic=topic.name, code=error.code.value)
            topic.doubtful = True
            ready_seq = None
        self._metrics.snapshot_load.observe(time.perf_counter() - started)
        if ready_seq is not None:
            topic.end_snapshot(delivery, ready_seq)
        elif delivery.subscription.state is SubscriptionState.SENDING and delivery.fanout is not None:
            topic.send_back(delivery)
            self._tasks.settle(topic)

    async def _send(
        self,
        topic: TopicState,
        delivery: Delivery,
        position: Position,
        pages: AsyncGenerator[Sequence[Item], None],
        reached: Callable[[], Awaitable[int | None]],
    ) -> int | None:
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
            if topic.epoch != position.epoch:
                return False
            part += 1
            outgoing.charge_rows(delivery, len(items))
            tail = dialect.snapshot_tail(topic.name, subscription.epoch, position.seq, part, last, items)
            outgoing.send("snapshot", head + tail)
            return True

        async with aclosing(pages):
            async for read in pages:
                page = read if subscription.scope is None else shown(subscription.scope, read)
                *full, held = [*dialect.snapshot_groups([*held, *page])] or [[]]
                for group in full:
                    if not await send(group, last=False):
                        return None
        ready_seq = await reached()
        return ready_seq if ready_seq is not None and await send(held, last=True) else None
