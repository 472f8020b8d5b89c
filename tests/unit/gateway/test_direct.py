"""Broadcasts that are written past the sending halves: whatever the sockets take, each connection gets its
own messages, all of them, whole and in order."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import orjson
import pytest

from gateway.fanout import Fanout
from gateway.metrics import GatewayMetrics
from gateway.outgoing import Delivery, Outgoing
from protocol.dialects.inventory_v1 import InventoryV1
from protocol.errors import ProtocolError
from protocol.items import Item
from protocol.principal import View
from protocol.subscription import Subscription

DIALECT = InventoryV1()
A, B, C = TOPICS = ("location:A", "location:B", "location:C")
HIGH_WATER = 16 * 1024
LARGE = 12_000  # bytes of an item, of which a socket takes a part


class Wire:
    """A connection over a real socket; its transport passes on what it holds only when it is told to."""

    def __init__(self, replica: "Replica") -> None:
        self.ours, self.theirs = socket.socketpair()
        for end in (self.ours, self.theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            end.setblocking(False)
        self.fd = self.ours.fileno()
        self.writes = 0  # calls of the transport's write()
        self.congestions = 0
        self.deliveries: dict[str, Delivery] = {}
        self.since: dict[str, int] = {}  # what it has to be sent of each topic comes after that version
        self.holder = ""
        self._replica = replica
        self._kept = bytearray()
        self._received = bytearray()
        self.outgoing = Outgoing(self, DIALECT, replica.metrics, owner=self, fd=self.fd)

    def follow(self, topic: str) -> None:
        fanout = self._replica.fanouts[topic]
        delivery = self.deliveries[topic] = Delivery(Subscription(topic, None, View.EXACT), self.outgoing)
        self.since[topic] = self._replica.last[topic]
        fanout.join(delivery)
        fanout.complete(delivery, fanout.sent_seq)

    def leave(self, topic: str) -> None:
        delivery = self.deliveries.pop(topic)
        self.outgoing.forget(delivery)
        self._replica.fanouts[topic].leave(delivery)

    def say(self, number: int, size: int) -> None:
        """A message for this client alone."""
        self.outgoing.send("error", orjson.dumps({"topic": "", "number": number, "pad": "x" * size}))

    def lose(self) -> None:
        """As a connection does in connection_lost(), and its transport then."""
        for topic in list(self.deliveries):
            self.leave(topic)
        self.outgoing.close()
        self.ours.close()

    # --- the owner of a sending half

    def charge_rows(self, rows: int) -> None:
        """There are no limits here."""

    def rows_error(self) -> ProtocolError | None:
        return None

    # --- asyncio's transport

    def write(self, data: bytes) -> None:
        self.writes += 1
        self._kept += data
        if len(self._kept) > HIGH_WATER and not self.outgoing.congested:
            self.congestions += 1
            self.outgoing.pause()

    def get_write_buffer_size(self) -> int:
        return len(self._kept)

    def refuse(self, subscription: Subscription, error: ProtocolError) -> None:
        raise AssertionError(error)

    def flush(self) -> None:
        """The socket may take some of what the transport holds."""
        if self._kept:
            with suppress(BlockingIOError):
                del self._kept[: self.ours.send(self._kept)]
        if self.outgoing.congested and not self._kept:
            self.outgoing.resume()

    # --- the peer

    def read(self, size: int = 1 << 20) -> None:
        with suppress(BlockingIOError):
            self._received += self.theirs.recv(size)

    @property
    def received(self) -> int:
        """Bytes."""
        return len(self._received)

    def messages(self) -> list[dict[str, Any]]:
        """All that it is sent, once it takes everything."""
        while True:
            before = len(self._received)
            self.flush()
            self.read()
            if len(self._received) == before and not self._kept and not self.outgoing.congested:
                return [orjson.loads(payload) for payload in payloads(self._received)]

    def versions(self, topic: str) -> list[int]:
        return [m["items"][0]["version"] for m in self.messages() if m["topic"] == topic]


class Replica:
    """Some topics of one item each, which nobody but the test changes."""

    def __init__(self) -> None:
        self.metrics = GatewayMetrics()
        self.fanouts = {topic: Fanout(topic, DIALECT, self.metrics, flush_s=0) for topic in TOPICS}
        self.last = dict.fromkeys(TOPICS, 1)
        self.wires: list[Wire] = []
        for fanout in self.fanouts.values():
            fanout.start("e", 1)

    def wire(self, *topics: str) -> Wire:
        wire = Wire(self)
        self.wires.append(wire)
        for topic in topics:
            wire.follow(topic)
        return wire

    async def change(self, topic: str, size: int = 10) -> None:
        version = self.last[topic] = self.last[topic] + 1
        body = orjson.dumps({"kind": "stock", "version": version, "pad": "x" * size})
        self.fanouts[topic].change([Item("stock:A", version, False, body)], version, 0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the flush's timer, so that the next one is not coalesced

    def end(self) -> None:
        for fanout in self.fanouts.values():
            fanout.stop()
        for wire in self.wires:
            wire.ours.close()
            wire.theirs.close()


def payloads(data: bytes | bytearray) -> list[bytes]:
    """Of whole frames; AssertionError if one is not."""
    found, at = [], 0
    while at < len(data):
        assert data[at] == 0x81
        size, at = data[at + 1], at + 2
        if size == 126:
            size, at = int.from_bytes(data[at : at + 2]), at + 2
        assert at + size <= len(data)
        found.append(bytes(data[at : at + size]))
        at += size
    return found


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    replica = Replica()
    yield replica
    replica.end()


async def test_everybody_gets_every_change_and_no_transport_sees_one(replica: Replica) -> None:
    wires = [replica.wire(A) for _ in range(5)]
    for _ in range(4):
        await replica.change(A)
    for wire in wires:
        assert wire.versions(A) == [2, 3, 4, 5]
        assert wire.writes == 0
    assert all(wire.deliveries[A].place >= 0 for wire in wires)


async def test_who_leaves_hears_nothing_more_and_the_others_stay(replica: Replica) -> None:
    wires = [replica.wire(A) for _ in range(5)]
    await replica.change(A)
    for number in (1, 4, 0):  # from the middle, the end and the beginning
        wires[number].leave(A)
        await replica.change(A)
    assert [wire.versions(A)[-1] for wire in wires] == [4, 2, 5, 5, 3]
    assert replica.fanouts[A].size == 2


async def test_what_a_full_socket_did_not_take_follows(replica: Replica) -> None:
    before, slow, behind = (replica.wire(A) for _ in range(3))
    await replica.change(A)
    await replica.change(A, LARGE)
    before.messages()
    behind.messages()
    assert slow.writes == 1
    await replica.change(A)
    assert slow.writes == 2  # behind the rest
    assert slow.versions(A) == before.versions(A) == behind.versions(A) == [2, 3, 4]
    await replica.change(A)
    await replica.change(A)
    assert slow.versions(A) == [2, 3, 4, 5, 6]
    assert slow.writes == 2  # it is written to directly again
    assert slow.deliveries[A].place >= 0


async def test_nothing_of_another_topic_overtakes_the_rest(replica: Replica) -> None:
    wire = replica.wire(A, B)
    await replica.change(A)
    await replica.change(B)
    await replica.change(A, LARGE)
    wire.read()  # there is room again before the transport has noticed
    await replica.change(B)
    assert [message["topic"] for message in wire.messages()] == [A, B, A, B]


async def test_no_broadcast_overtakes_what_this_client_alone_is_told(replica: Replica) -> None:
    wire = replica.wire(A)
    await replica.change(A)
    wire.say(1, LARGE)
    wire.read()
    await replica.change(A)
    assert [message["topic"] for message in wire.messages()] == [A, "", A]


async def test_a_congested_client_gets_the_latest_later(replica: Replica) -> None:
    wire, other = replica.wire(A), replica.wire(A)
    await replica.change(A)
    wire.outgoing.pause()
    for _ in range(5):
        await replica.change(A)
    wire.read()
    wire.outgoing.resume()
    assert wire.versions(A) == [2, 7]
    assert other.versions(A) == [2, 3, 4, 5, 6, 7]


async def test_a_broken_socket_is_the_transports_to_find(replica: Replica) -> None:
    wire, other = replica.wire(A), replica.wire(A)
    await replica.change(A)
    wire.theirs.close()
    await replica.change(A)
    assert wire.writes == 1
    assert other.versions(A) == [2, 3]


async def test_a_topic_that_is_void_is_written_to_nobody(replica: Replica) -> None:
    wire = replica.wire(A)
    await replica.change(A)
    delivery = wire.deliveries[A]
    replica.fanouts[A].leave(delivery)
    delivery.restart()
    assert delivery.place == -1
    await replica.change(A)
    assert wire.versions(A) == [2]


async def test_counts_are_those_of_what_was_written(replica: Replica) -> None:
    wires = [replica.wire(A) for _ in range(3)]
    for _ in range(2):
        await replica.change(A)
    assert sum(len(wire.messages()) for wire in wires) == 6
    assert replica.metrics.frames_sent["delta"] == 6
    assert replica.metrics.bytes_sent["delta"] == sum(wire.received for wire in wires)


class TestADescriptorOfAnother:
    """One that was closed is the next connection's: the system gives out the lowest number that is free."""

    async def test_it_gets_nothing_of_the_one_before(self, replica: Replica) -> None:
        gone = replica.wire(A)
        await replica.change(A)
        gone.lose()
        other = replica.wire(B)
        assert other.fd == gone.fd
        await replica.change(A)
        await replica.change(B)
        assert [message["topic"] for message in other.messages()] == [B]

    async def test_even_if_the_one_before_was_never_unsubscribed(self, replica: Replica) -> None:
        gone = replica.wire(A, C)
        await replica.change(A)
        await replica.change(C)
        gone.outgoing.close()
        gone.ours.close()
        other = replica.wire(B)
        assert other.fd == gone.fd
        await replica.change(A)
        await replica.change(C)
        assert other.messages() == []
        assert gone.writes == 2  # the transport knows what to do with it


@pytest.mark.parametrize("seed", range(30))
async def test_whatever_happens(replica: Replica, seed: int) -> None:
    chance = random.Random(seed)
    wires = [replica.wire(*TOPICS) for _ in range(3)]
    ended: list[Wire] = []
    for number in range(150):
        wire = chance.choice(wires)
        topic = chance.choice(TOPICS)
        match chance.choice(("change",) * 6 + ("read",) * 3 + ("flush",) * 3 + ("say", "move", "lose")):
            case "change":
                await replica.change(topic, chance.choice((10, 10, 500, LARGE)))
            case "read":
                wire.read(chance.choice((100, 3000, 1 << 20)))
            case "flush":
                wire.flush()
            case "say":
                wire.say(number, chance.choice((10, 500, LARGE)))
            case "move":
                wire.leave(topic) if topic in wire.deliveries else wire.follow(topic)
            case "lose" if chance.random() < 0.3:
                wire.lose()
                ended.append(wire)
                wires[wires.index(wire)] = replica.wire(*chance.sample(TOPICS, 2))
    for wire in wires:
        check(wire, replica.last)


def check(wire: Wire, last: dict[str, int]) -> None:
    messages = wire.messages()
    numbers = [message["number"] for message in messages if message["topic"] == ""]
    assert numbers == sorted(numbers)
    assert {message["topic"] for message in messages} <= {"", *wire.since}
    for topic in wire.since:
        versions = [message["items"][0]["version"] for message in messages if message["topic"] == topic]
        assert versions == sorted(set(versions))
        if topic in wire.deliveries and last[topic] > wire.since[topic]:
            assert versions[-1] == last[topic]
            if not wire.congestions:
                assert versions[-1] - wire.since[topic] <= len(versions)
