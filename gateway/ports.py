"""What the hub needs from the side of Postgres and Redis, so that it never imports that side."""

from collections.abc import AsyncIterator, Collection, Sequence
from typing import Protocol

from protocol.envelope import Changed, Position
from protocol.items import Item
from protocol.topics import Topic

__all__ = ["Feed", "OpenedTopic", "StoredTopic"]


class OpenedTopic(Protocol):
    """A topic that is loaded: where it stands and how many items it holds."""

    @property
    def epoch(self) -> str: ...
    @property
    def seq(self) -> int: ...
    @property
    def items(self) -> int: ...


class StoredTopic(Protocol):
    """A whole topic, read at one instant; tombstones are among the items."""

    @property
    def epoch(self) -> str: ...
    @property
    def seq(self) -> int: ...
    @property
    def items(self) -> Sequence[Item]: ...


class Feed(Protocol):
    """Topics as a replica sees them. Every coroutine raises ProtocolError (`unavailable` with a time to come
    back, `topic_too_large`) and nothing else."""

    def subscribe_nowait(self, topic: str) -> None: ...
    def unsubscribe_nowait(self, topic: str) -> None: ...

    def is_subscribed(self, topic: str) -> bool:
        """Whether wait_subscribed would return at once."""
        ...

    async def wait_subscribed(self, topic: str) -> None:
        """Returns once the bus has confirmed the subscription."""
        ...

    async def ensure(self, topic: Topic) -> OpenedTopic:
        """Loads the topic from Postgres if nobody has."""
        ...

    async def enter(self, topic: Topic) -> tuple[OpenedTopic, StoredTopic | None]:
        """As `ensure`, with what the topic holds at that position, where it had been loaded and that is small
        enough to be read at once."""
        ...

    async def read(self, topic: str) -> StoredTopic | None:
        """None: not loaded any more, or too large to be read at once."""
        ...

    def pages(self, topic: str, epoch: str) -> AsyncIterator[Sequence[Item]]:
        """A large topic; `unavailable` at the end if its epoch has changed meanwhile."""
        ...

    async def log_since(self, topic: str, position: Position) -> Sequence[Changed] | None:
        """What came after the position; None where the log does not reach back to it."""
        ...

    async def positions(self, topics: Collection[str]) -> dict[str, Position]:
        """Of the topics that are loaded; also keeps them from expiring."""
        ...
