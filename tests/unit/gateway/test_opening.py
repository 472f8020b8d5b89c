"""gateway.joining: who asks for thousands of topics and leaves them does not fill the loop with them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway import joining
from gateway.hub import Hub, HubSettings
from gateway.joining import OPENING
from gateway.metrics import GatewayMetrics
from protocol.topics import Topic
from tests.support.replica import Client, FakeFeed
from tests.support.waiting import eventually

TOPICS = [f"product:{number}" for number in range(3 * OPENING)]


class SlowFeed(FakeFeed):
    """Opens nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.opening = asyncio.Event()

    async def ensure(self, topic: Topic) -> Any:
        self.opened.append(str(topic))
        await self.opening.wait()
        return await super().ensure(topic)


@pytest.fixture
async def feed() -> SlowFeed:
    return SlowFeed()


@pytest.fixture
async def client(feed: SlowFeed) -> AsyncIterator[Client]:
    hub = feed.hub = Hub(feed, GatewayMetrics(), HubSettings(), told=lambda *_: None)
    task = asyncio.create_task(hub.run())
    await asyncio.sleep(0)
    yield Client(hub)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_few_are_opened_at_a_time_and_none_that_was_left(feed: SlowFeed, client: Client) -> None:
    for topic in TOPICS:
        client.subscribe(topic)
    await eventually(lambda: len(feed.opened) == OPENING)
    for topic in TOPICS[OPENING:-1]:
        client.leave(topic)
    feed.opening.set()
    await eventually(lambda: client.is_complete(TOPICS[-1]))
    assert feed.opened == [*TOPICS[:OPENING], TOPICS[-1]]
    await eventually(lambda: client.hub.statistics()["topics"] == OPENING + 1)


async def test_those_that_hang_do_not_hold_up_the_others(
    feed: SlowFeed, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "TURN_S", 0.01)
    for topic in TOPICS:
        client.subscribe(topic)
    await eventually(lambda: len(feed.opened) == len(TOPICS))
    feed.opening.set()
    await eventually(lambda: all(client.is_complete(topic) for topic in TOPICS))
