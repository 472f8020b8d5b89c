"""As tests/unit/protocol/test_public_stream.py, with all that lies between the view and the socket: frames,
what is put together in time, snapshots that are shared and those that come late."""

import asyncio
import re

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.hub import Hub, HubSettings
from gateway.metrics import GatewayMetrics
from load.frames import FrameReader
from protocol.principal import View
from tests.support.appearances import DEFAULT_LOW, TOPICS, Twins, twins
from tests.support.replica import Client, FakeFeed, product, stock
from tests.support.waiting import eventually

NUMBERS = re.compile(rb'"(version|seq)":\d+')


class Listener(Client):
    """It keeps the bytes."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self.payloads: list[bytes] = []
        self._reader = FrameReader()

    def write(self, data: bytes) -> None:
        self.payloads += [NUMBERS.sub(rb'"\1":0', frame.payload) for frame in self._reader.feed(data)]
        super().write(data)


class Replica:
    """A hub of its own with a topic; used as a block."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.feed = FakeFeed()
        settings = HubSettings(flush_s=0, compare_s=60, low_stock=DEFAULT_LOW)
        self.hub = Hub(self.feed, GatewayMetrics(), settings, told=lambda *_: None)
        self.feed.hub = self.hub

    async def __aenter__(self) -> "Replica":
        self._task = asyncio.create_task(self.hub.run())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert not self._task.done()
        self._task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self._task

    async def follow(self, client: Listener) -> None:
        client.subscribe(self.topic, view=View.PUBLIC)
        await eventually(lambda: client.is_complete(self.topic))

    async def pause(self) -> None:
        """Until nothing is due any more: the leading edge's timer has run out."""
        topic = self.hub.topic(self.topic)
        assert topic is not None
        await eventually(lambda: all(fanout._timer is None for fanout in topic.fanouts))


async def heard(shops: Twins, number: int) -> list[list[bytes]]:
    """By somebody who is there from the beginning, by one who comes at the end, and by one who comes back
    after everybody had left."""
    async with Replica(shops.topic) as replica:
        replica.feed.rows[shops.topic] = shops.rows[number]
        first, late, again = (Listener(replica.hub) for _ in range(3))
        await replica.follow(first)
        for step in shops.steps:
            for message in step.messages[number]:
                replica.feed.change(shops.topic, *message)
            if step.pause:
                await replica.pause()
        await replica.pause()
        await replica.follow(late)
        for client in (first, late):
            client.leave(shops.topic)
        await eventually(lambda: replica.hub.topic(shops.topic) is None)
        await replica.follow(again)
        return [client.payloads for client in (first, late, again)]


@pytest.mark.parametrize("topic", TOPICS)
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_shops_that_look_alike_sound_alike_on_the_wire(topic: str, data: st.DataObject) -> None:
    shops = data.draw(twins(topic))
    assert uvloop.run(heard(shops, 0)) == uvloop.run(heard(shops, 1))


class TestHidden:
    @pytest.mark.parametrize("drafts", [1, 3000])
    async def test_products_leave_no_mark_on_a_snapshot(self, drafts: int) -> None:
        """Also where a topic is so large that it is streamed."""
        shown = [product("A", 1), stock("A", 2, on_hand=3)]
        hidden = [
            item for n in range(drafts) for item in (product(f"D{n}", 9, status="draft"), stock(f"D{n}", 9))
        ]
        payloads = []
        for rows in (shown, [*hidden[: len(hidden) // 2], *shown, *hidden[len(hidden) // 2 :]]):
            async with Replica("location:L1") as replica:
                replica.feed.rows["location:L1"] = rows
                client = Listener(replica.hub)
                await replica.follow(client)
                payloads.append(client.payloads)
        assert payloads[0] == payloads[1]

    async def test_changes_are_no_frame_and_no_byte(self) -> None:
        async with Replica("location:L1") as replica:
            replica.feed.rows["location:L1"] = [product("A", 1), stock("A", 2, on_hand=90)]
            client = Listener(replica.hub)
            await replica.follow(client)
            before = len(client.payloads)
            for version in range(10, 40, 3):
                replica.feed.change("location:L1", stock("A", version, on_hand=version))
                replica.feed.change("location:L1", product("D", version + 1, status="draft"))
                replica.feed.change("location:L1", stock("D", version + 2))
            await replica.pause()
            assert len(client.payloads) == before
            replica.feed.change("location:L1", stock("A", 50, on_hand=5))
            assert len(client.payloads) == before + 1
