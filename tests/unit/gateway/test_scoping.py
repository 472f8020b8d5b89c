"""Clients whose credentials let them see only part of a topic, at a hub."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from gateway.scoping import wire_epoch, without_scope
from protocol.envelope import Position
from protocol.items import Item, tombstone
from protocol.principal import Scope
from protocol.scoped_view import shown
from tests.support.replica import Client, product, stock
from tests.support.waiting import eventually
from tests.unit.gateway.test_hub import Replica

TOPIC = "location:L1"
V, W = Scope("V", None), Scope("W", None)


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    replica = Replica()
    task = asyncio.create_task(replica.hub.run())
    await asyncio.sleep(0)
    yield replica
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def follow(replica: Replica, scope: Scope | None, *, resume: Position | None = None) -> Client:
    client = replica.client()
    client.subscribe(TOPIC, scope=scope, resume=resume)
    await eventually(lambda: client.is_complete(TOPIC))
    return client


class TestEpochs:
    def test_another_scope_is_another_epoch(self) -> None:
        told = [
            wire_epoch("e", scope)
            for scope in (None, V, W, Scope("V", frozenset()), Scope(None, frozenset("V")))
        ]
        assert len(set(told)) == 5
        assert told[0] == "e"
        assert wire_epoch("e", Scope("V", frozenset({"b", "a"}))) == wire_epoch(
            "e", Scope("V", frozenset({"a", "b"}))
        )
        assert all(len(epoch) <= 64 for epoch in told)

    def test_only_the_same_scope_goes_on(self) -> None:
        own = Position(wire_epoch("e", V), 7)
        assert without_scope(own, V) == Position("e", 7)
        for foreign in (None, W):
            assert without_scope(own, foreign).epoch != "e"
        assert without_scope(Position("e", 7), V).epoch != "e"
        assert without_scope(Position("e", 7), None) == Position("e", 7)


class TestSubscribers:
    async def test_each_gets_its_own_part(self, replica: Replica) -> None:
        replica.rows(
            stock("A", 1), product("A", 2), stock("B", 3, vendor_id="W"), product("B", 4, vendor_id="W")
        )
        of_v, of_w, of_all = [await follow(replica, scope) for scope in (V, W, None)]
        assert of_v.holds(TOPIC) == {"stock:A:L1": 1, "product:A": 2}
        assert of_w.holds(TOPIC) == {"stock:B:L1": 3, "product:B": 4}
        assert len(of_all.holds(TOPIC)) == 4
        replica.feed.change(TOPIC, stock("A", 5), stock("B", 6, vendor_id="W"))
        await eventually(lambda: of_all.holds(TOPIC)["stock:B:L1"] == 6)
        assert (of_v.holds(TOPIC)["stock:A:L1"], of_w.holds(TOPIC)["stock:B:L1"]) == (5, 6)
        assert "B" not in str([item for m in of_v.of("delta") for item in m["items"]])

    async def test_no_byte_for_what_they_can_not_see(self, replica: Replica) -> None:
        replica.rows(stock("A", 1), stock("B", 2, vendor_id="W"))
        client = await follow(replica, V)
        heard = len(client.messages)
        for version in range(3, 20):
            replica.feed.change(TOPIC, stock("B", version, vendor_id="W"))
            replica.feed.change(TOPIC, tombstone(f"stock:C{version}:L1", version + 100))
        await asyncio.sleep(0.05)
        assert len(client.messages) == heard

    async def test_a_foreign_topic_looks_like_a_missing_one(self, replica: Replica) -> None:
        replica.rows(stock("B", 2, vendor_id="W"), product("B", 4, vendor_id="W"))
        foreign = await follow(replica, V)
        missing = replica.client()
        missing.subscribe("location:L0", scope=V)
        await eventually(lambda: missing.is_complete("location:L0"))
        told = [client.of("snapshot")[0] | {"topic": "", "epoch": ""} for client in (foreign, missing)]
        assert told[0] == told[1]

    async def test_what_changes_hands(self, replica: Replica) -> None:
        replica.rows(stock("A", 1), product("A", 2))
        of_v, of_w = await follow(replica, V), await follow(replica, W)
        replica.feed.change(TOPIC, product("A", 3, vendor_id="W"), stock("A", 4, vendor_id="W"))
        await eventually(lambda: of_v.holds(TOPIC) == {})
        assert of_w.holds(TOPIC) == {"product:A": 3, "stock:A:L1": 4}
        replica.feed.change(TOPIC, stock("A", 5))
        await eventually(lambda: of_v.holds(TOPIC) == {"stock:A:L1": 5})
        await eventually(lambda: of_w.holds(TOPIC) == {"product:A": 3})

    async def test_scopes_that_are_alike_share_what_is_read_and_encoded(self, replica: Replica) -> None:
        replica.rows(stock("A", 1))
        clients = [replica.client() for _ in range(20)]
        for client in clients:
            client.subscribe(TOPIC, scope=Scope("V", None))
        await eventually(lambda: all(client.is_complete(TOPIC) for client in clients))
        topic = replica.hub.topic(TOPIC)
        assert topic is not None
        assert len(topic.fanouts) == 1
        assert replica.feed.reads <= 1  # for whose things are and for the snapshot
        assert replica.metrics.snapshot_misses == 1

    async def test_what_is_kept_for_them_goes_with_them(self, replica: Replica) -> None:
        replica.rows(stock("A", 1))
        limited, _ = await follow(replica, V), await follow(replica, None)
        topic = replica.hub.topic(TOPIC)
        assert topic is not None
        assert topic.scoping is not None
        limited.leave(TOPIC)
        assert topic.scoping is None

    async def test_what_changes_while_the_topic_is_read_for_them(
        self, replica: Replica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        replica.rows(stock("A", 1), stock("B", 2))
        await follow(replica, None)
        held, read, real = asyncio.Event(), asyncio.Event(), replica.feed.read

        async def slow(topic: str) -> object:
            stored = await real(topic)
            read.set()
            await held.wait()
            return stored

        monkeypatch.setattr(replica.feed, "read", slow)
        client = replica.client()
        client.subscribe(TOPIC, scope=V)
        await asyncio.wait_for(read.wait(), 5)
        replica.feed.change(TOPIC, stock("A", 5, vendor_id="W"))
        held.set()
        await eventually(lambda: client.is_complete(TOPIC))
        assert client.holds(TOPIC) == {"stock:B:L1": 2}
        replica.feed.change(TOPIC, stock("A", 6, vendor_id="W"))
        replica.feed.change(TOPIC, stock("B", 7))
        await eventually(lambda: client.holds(TOPIC) == {"stock:B:L1": 7})
        assert "A" not in str([item for message in client.of("delta") for item in message["items"]])

    async def test_a_large_topic_is_streamed_in_part(self, replica: Replica) -> None:
        owner = ["V", "W", "X"]
        replica.rows(*(stock(f"P{n}", n + 1, vendor_id=owner[n % 3]) for n in range(3000)))
        client = await follow(replica, V)
        assert len(client.holds(TOPIC)) == 1000
        replica.feed.change(TOPIC, stock("P0", 9000, vendor_id="W"), stock("P1", 9001, vendor_id="V"))
        await eventually(lambda: "stock:P1:L1" in client.holds(TOPIC))
        assert "stock:P0:L1" not in client.holds(TOPIC)


class TestResume:
    async def test_from_the_log_where_that_can_tell(self, replica: Replica) -> None:
        replica.rows(stock("A", 1))
        first = await follow(replica, V)
        position = first.position(TOPIC)
        replica.feed.change(TOPIC, stock("A", 5))
        await eventually(lambda: first.holds(TOPIC)["stock:A:L1"] == 5)
        client = replica.client()
        client.copies[TOPIC] = first.copies[TOPIC]
        client._positions[TOPIC] = position
        client._floors[TOPIC] = {}
        client.subscribe(TOPIC, scope=V, resume=position)
        await eventually(lambda: client.of("resumed"))
        assert client.of("resumed")[0]["epoch"] == position.epoch
        await eventually(lambda: client.of("delta"))
        assert not client.of("snapshot")

    @pytest.mark.parametrize("change", [stock("B", 5, vendor_id="W"), tombstone("stock:A:L1", 5)])
    async def test_by_a_snapshot_where_it_can_not(self, replica: Replica, change: Item) -> None:
        replica.rows(stock("A", 1))
        position = (await follow(replica, V)).position(TOPIC)
        replica.feed.change(TOPIC, change)
        client = await follow(replica, V, resume=position)
        assert not client.of("resumed")

    @pytest.mark.parametrize(("before", "now"), [(V, None), (None, V), (W, V)])
    async def test_never_from_a_copy_of_another_scope(
        self, replica: Replica, before: Scope | None, now: Scope | None
    ) -> None:
        replica.rows(stock("A", 1), stock("B", 2, vendor_id="W"))
        position = (await follow(replica, before)).position(TOPIC)
        client = await follow(replica, now, resume=position)
        assert not client.of("resumed")


def any_change(source: random.Random, version: int) -> Item:
    item = stock(f"P{source.randrange(12)}", version, vendor_id=source.choice("VW"))
    return tombstone(item.key, version) if source.random() < 0.2 else item


def has_its_part(replica: Replica, client: Client, scope: Scope | None) -> bool:
    if TOPIC not in replica.feed.topics:
        return False  # void, and nobody has noticed yet
    items = [item for item in replica.feed.topics[TOPIC].items.values() if not item.deleted]
    seen = items if scope is None else shown(scope, items)
    return client.is_complete(TOPIC) and client.holds(TOPIC) == {item.key: item.version for item in seen}


@pytest.mark.parametrize("seed", range(15))
async def test_whatever_happens_a_copy_becomes_what_its_scope_shows(replica: Replica, seed: int) -> None:
    """Changes, sales from vendor to vendor, lost messages, new epochs, slow readers, comings and goings."""
    source = random.Random(seed)
    replica.rows(*(stock(f"P{n}", n + 1, vendor_id=source.choice("VW")) for n in range(10)))
    scopes = [V, W, Scope("V", frozenset({"L1"})), None]
    clients = [(replica.client(), scope) for scope in scopes for _ in range(2)]
    version = 100
    for _ in range(150):
        version += 1
        match source.randrange(9):
            case 0 | 1 | 2 | 3:
                replica.feed.change(TOPIC, any_change(source, version))
            case 4:
                client, scope = source.choice(clients)
                client.subscribe(TOPIC, scope=scope)
            case 5:
                source.choice(clients)[0].leave(TOPIC)
            case 6:
                replica.feed.deaf = source.random() < 0.5
            case 7:
                client, _ = source.choice(clients)
                client.drain(source.choice([0, 2, None]))
            case 8 if source.random() < 0.2 and TOPIC in replica.feed.topics:
                replica.rows(*replica.feed.topics[TOPIC].items.values())
                replica.feed.void(TOPIC)
        if source.random() < 0.5:
            await asyncio.sleep(0)
    replica.feed.deaf = False
    for client, scope in clients:
        client.drain()
        if TOPIC not in client.deliveries:
            client.subscribe(TOPIC, scope=scope)
    replica.hub.restored()
    last = [stock("LAST", 10_000), stock("LASTW", 10_001, vendor_id="W")]
    replica.feed.rows[TOPIC] += last
    replica.feed.change(TOPIC, *last)

    await eventually(lambda: all(has_its_part(replica, *client) for client in clients), timeout_s=10)
