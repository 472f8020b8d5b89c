"""Topics as a replica sees them: the bus, the store and the loader behind one face.

It speaks to the side of the clients, so what it raises is what a client may be told: ProtocolError.
"""

from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

from listeners.bus import Bus
from listeners.errors import EpochChanged, ListenersError, TopicTooLarge, Unavailable
from listeners.postgres import classified
from listeners.topic_store import PAGE_ITEMS, Opened, Stored, TopicStore
from protocol.envelope import Changed, Position
from protocol.errors import ErrorCode, ProtocolError
from protocol.items import Item
from protocol.topics import Topic

__all__ = ["Loader", "TopicFeed"]

# How long a subscriber waits for the bus before it is told to come back, in s.
SUBSCRIBE_TIMEOUT_S: Final = 5.0
PROBE_TIMEOUT_S: Final = 2.0


class Loader(Protocol):
    async def ensure(self, topic: Topic) -> Opened: ...
    async def enter(self, topic: Topic) -> tuple[Opened, Stored | None]: ...


class TopicFeed:
    """Implements gateway.ports.Feed."""

    def __init__(self, bus: Bus, store: TopicStore, loader: Loader) -> None:
        self._bus = bus
        self._store = store
        self._loader = loader

    def subscribe_nowait(self, topic: str) -> None:
        self._bus.subscribe_nowait(topic)

    def unsubscribe_nowait(self, topic: str) -> None:
        self._bus.unsubscribe_nowait(topic)

    def is_subscribed(self, topic: str) -> bool:
        return self._bus.is_subscribed(topic)

    async def wait_subscribed(self, topic: str) -> None:
        with _told(topic):
            await self._bus.wait_subscribed(topic, SUBSCRIBE_TIMEOUT_S)

    async def ensure(self, topic: Topic) -> Opened:
        with _told(str(topic)):
            return await self._loader.ensure(topic)

    async def enter(self, topic: Topic) -> tuple[Opened, Stored | None]:
        with _told(str(topic)):
            return await self._loader.enter(topic)

    async def read(self, topic: str) -> Stored | None:
        """None: not loaded any more, or more than can be read at one moment (PAGE_ITEMS)."""
        with _told(topic):
            stored = await self._store.read(topic, pages=False)
        return stored if stored is not None and len(stored.items) <= PAGE_ITEMS else None

    async def pages(self, topic: str, epoch: str) -> AsyncIterator[Sequence[Item]]:
        with _told(topic):
            async for page in self._store.pages(topic, epoch):
                yield page

    async def log_since(self, topic: str, position: Position) -> Sequence[Changed] | None:
        with _told(topic):
            return await self._store.log_since(topic, *position)

    async def probe_database(self, pool: Any) -> None:
        """One round trip, waiting for a connection included."""
        with _told(), classified():
            await pool.fetchval("SELECT 1", timeout=PROBE_TIMEOUT_S)

    async def probe_store(self) -> None:
        """One round trip."""
        with _told():
            await self._store.reign()

    async def positions(self, topics: Collection[str]) -> dict[str, Position]:
        with _told():
            return await self._store.positions(topics)


@contextmanager
def _told(topic: str | None = None) -> Iterator[None]:
    """What is wrong here, in words for a client: which server it was stays in the logs."""
    try:
        yield
    except TopicTooLarge as error:
        message = f"more than {error.limit} items; subscribe to narrower topics"
        raise ProtocolError(ErrorCode.TOPIC_TOO_LARGE, message, topic=topic) from error
    except EpochChanged as error:
        message = "the topic was loaded anew while it was read; try again"
        raise ProtocolError(ErrorCode.UNAVAILABLE, message, topic=topic, retry_after_ms=100) from error
    except Unavailable as error:
        message = "stock can not be read at the moment; try again"
        raise ProtocolError(
            ErrorCode.UNAVAILABLE, message, topic=topic, retry_after_ms=error.retry_after_ms
        ) from error
    except ListenersError as error:
        message = "stock can not be read at the moment; try again later"
        raise ProtocolError(ErrorCode.UNAVAILABLE, message, topic=topic, retry_after_ms=5000) from error
