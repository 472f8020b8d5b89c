"""What a client is told about what is wrong behind the gateway."""

from typing import Any

import pytest

from listeners.errors import (
    EpochChanged,
    ListenersError,
    NoRelay,
    Refused,
    TopicTooLarge,
    Unavailable,
)
from listeners.feed import TopicFeed
from listeners.memory_bus import MemoryBroker, MemoryBus
from listeners.topic_store import PAGE_ITEMS, Opened, Stored
from protocol.envelope import Position
from protocol.errors import ErrorCode, ProtocolError
from protocol.items import Item
from protocol.topics import parse_topic

TOPIC = parse_topic("location:L1")


class Broken:
    """A store and a loader that fail in one way, or hold `items`."""

    def __init__(self, error: ListenersError | None = None, items: int = 0) -> None:
        self.error = error
        self.items = [Item(f"stock:P{n}:L1", n, False, b"{}") for n in range(items)]

    def _answer(self) -> None:
        if self.error is not None:
            raise self.error

    async def ensure(self, topic: object) -> Opened:
        self._answer()
        return Opened("e", 1, len(self.items))

    async def enter(self, topic: object) -> tuple[Opened, Stored | None]:
        self._answer()
        return Opened("e", 1, len(self.items)), Stored("e", 1, self.items)

    async def read(self, topic: str, *, pages: bool) -> Stored | None:
        self._answer()
        return Stored("e", 1, self.items)

    async def pages(self, topic: str, epoch: str) -> Any:
        yield self.items
        self._answer()

    async def log_since(self, topic: str, epoch: str, seq: int) -> list[Any]:
        self._answer()
        return []

    async def positions(self, topics: object) -> dict[str, Position]:
        self._answer()
        return {}

    async def reign(self) -> None:
        self._answer()


def feed(broken: Broken) -> TopicFeed:
    store: Any = broken
    return TopicFeed(MemoryBus(MemoryBroker()), store, broken)


@pytest.mark.parametrize(
    ("error", "code", "retry_after_ms"),
    [
        (Unavailable("redis at 10.0.0.7 is away", retry_after_ms=700), ErrorCode.UNAVAILABLE, 700),
        (NoRelay("no relay has begun"), ErrorCode.UNAVAILABLE, 1000),
        (Refused("wrong password for gateway"), ErrorCode.UNAVAILABLE, 5000),
        (EpochChanged("it moved"), ErrorCode.UNAVAILABLE, 100),
        (TopicTooLarge("location:L1", 5), ErrorCode.TOPIC_TOO_LARGE, None),
    ],
)
class TestErrors:
    async def test_are_told_without_naming_a_server(
        self, error: ListenersError, code: ErrorCode, retry_after_ms: int | None
    ) -> None:
        broken = feed(Broken(error))
        for work in (
            broken.ensure(TOPIC),
            broken.read("location:L1"),
            broken.log_since("location:L1", Position("e", 1)),
            broken.positions(["location:L1"]),
            broken.probe_store(),
        ):
            with pytest.raises(ProtocolError) as told:
                await work
            assert (told.value.code, told.value.retry_after_ms) == (code, retry_after_ms)
            assert "10.0.0.7" not in told.value.message
            assert "password" not in told.value.message

    async def test_at_the_end_of_a_large_topic_too(
        self, error: ListenersError, code: ErrorCode, retry_after_ms: int | None
    ) -> None:
        with pytest.raises(ProtocolError) as told:
            async for _ in feed(Broken(error)).pages("location:L1", "e"):
                pass
        assert told.value.code is code


async def test_a_channel_that_nobody_wants_is_unavailable() -> None:
    with pytest.raises(ProtocolError) as told:
        await feed(Broken()).wait_subscribed("location:L1")
    assert told.value.code is ErrorCode.UNAVAILABLE


@pytest.mark.parametrize(("items", "whole"), [(PAGE_ITEMS, True), (PAGE_ITEMS + 1, False)])
async def test_only_what_was_read_at_one_moment_is_a_whole_topic(items: int, whole: bool) -> None:
    assert (await feed(Broken(items=items)).read("location:L1") is not None) is whole
