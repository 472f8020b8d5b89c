"""What views cost, in counts: a view is computed once a topic and encoded once, however many follow it."""

import asyncio
import gc
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from functools import wraps
from typing import Any

import pytest

from gateway import fanout, topic_state
from gateway.auth.authority import Authority
from gateway.auth.entrance import Entrance
from gateway.auth.keys import KeyRing, secret_key
from gateway.auth.tokens import TokenRules, TokenVerifier
from gateway.hub import Hub, HubSettings
from gateway.metrics import GatewayMetrics
from load.sink import Sinks, Visit, open_sinks
from load.tokens import SECRET, subjects
from protocol.dialects.inventory_v1 import InventoryV1
from protocol.principal import Scope, View
from protocol.public_view import PublicView
from protocol.scoped_view import Owners
from tests.support.gate import ANYBODY, make_gate
from tests.support.replica import Client, FakeFeed, product, stock
from tests.support.waiting import eventually

TOPIC = "location:L1"
CLIENTS = 50
CHANGES = 10
OURS, THEIRS = Scope("V", frozenset({"L1"})), Scope("W", frozenset({"L1"}))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Of what is done for views, by name."""
    counted: Counter[str] = Counter()

    def count(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        @wraps(function)
        def called(*arguments: Any, **options: Any) -> Any:
            counted[name] += 1
            return function(*arguments, **options)

        monkeypatch.setattr(owner, name, called)

    for name in ("apply", "conclude", "pages"):
        count(PublicView, name)
    count(Owners, "_take")
    count(topic_state, "shown_changes")
    count(InventoryV1, "deltas")
    count(InventoryV1, "snapshot_tails")
    count(fanout, "text_frame")
    return counted


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    feed = FakeFeed()
    feed.rows[TOPIC] = [product("A", 1), stock("A", 2, on_hand=90)]
    hub = Hub(feed, GatewayMetrics(), HubSettings(flush_s=0, compare_s=60), told=lambda *_: None)
    feed.hub = hub
    task = asyncio.create_task(hub.run())
    await asyncio.sleep(0)
    yield hub
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.fixture
def feed(hub: Hub) -> FakeFeed:
    assert isinstance(hub._feed, FakeFeed)
    return hub._feed


async def crowd(hub: Hub, **how: Any) -> list[Client]:
    clients = [Client(hub) for _ in range(CLIENTS)]
    for client in clients:
        client.subscribe(TOPIC, **how)
    await eventually(lambda: all(client.is_complete(TOPIC) for client in clients))
    return clients


async def sell(hub: Hub, feed: FakeFeed, amounts: list[int], *, version: int = 10) -> None:
    for number, amount in enumerate(amounts):
        feed.change(TOPIC, stock("A", version + number, on_hand=amount))
        await eventually(lambda: is_quiet(hub))


def is_quiet(hub: Hub) -> bool:
    """Nothing is due any more: the leading edge's timers have run out."""
    topic = hub.topic(TOPIC)
    assert topic is not None
    return all(fanout._timer is None for fanout in topic.fanouts)


class TestThePublicView:
    async def test_a_crowd_shares_one_projection_and_one_encoded_snapshot(
        self, hub: Hub, calls: Counter[str]
    ) -> None:
        await crowd(hub, view=View.PUBLIC)
        await crowd(hub, view=View.PUBLIC)
        assert (calls["conclude"], calls["pages"], calls["snapshot_tails"]) == (1, 1, 1)

    async def test_a_change_is_projected_once_and_encoded_once(
        self, hub: Hub, feed: FakeFeed, calls: Counter[str]
    ) -> None:
        clients = await crowd(hub, view=View.PUBLIC)
        calls.clear()
        await sell(hub, feed, [1 + n % 2 for n in range(CHANGES)])
        assert (calls["apply"], calls["deltas"], calls["text_frame"]) == (CHANGES, CHANGES, CHANGES)
        assert {len(client.of("delta")) for client in clients} == {CHANGES}

    async def test_what_can_not_be_seen_is_not_encoded(
        self, hub: Hub, feed: FakeFeed, calls: Counter[str]
    ) -> None:
        await crowd(hub, view=View.PUBLIC)
        calls.clear()
        await sell(hub, feed, [50 + n for n in range(CHANGES)])
        assert calls == {"apply": CHANGES}

    async def test_nothing_is_projected_for_those_who_see_all(
        self, hub: Hub, feed: FakeFeed, calls: Counter[str]
    ) -> None:
        await crowd(hub, view=View.EXACT)
        calls.clear()
        await sell(hub, feed, list(range(CHANGES)))
        assert calls == {"deltas": CHANGES, "text_frame": CHANGES}


class TestScopes:
    async def test_a_change_is_filtered_and_encoded_once_a_scope(
        self, hub: Hub, feed: FakeFeed, calls: Counter[str]
    ) -> None:
        ours = await crowd(hub, scope=OURS)
        theirs = await crowd(hub, scope=THEIRS)
        # Whose each of the two items is, is found once and serves both.
        assert (calls["snapshot_tails"], calls["_take"]) == (2, 2)
        calls.clear()
        await sell(hub, feed, list(range(CHANGES)))
        assert calls == {
            "_take": CHANGES,
            "shown_changes": 2 * CHANGES,
            "deltas": CHANGES,
            "text_frame": CHANGES,
        }
        assert {len(client.of("delta")) for client in ours} == {CHANGES}
        assert {len(client.of("delta")) for client in theirs} == {0}

    async def test_three_views_of_a_change_are_three_frames(
        self, hub: Hub, feed: FakeFeed, calls: Counter[str]
    ) -> None:
        for how in ({"view": View.EXACT}, {"view": View.PUBLIC}, {"scope": OURS}):
            await crowd(hub, **how)
        calls.clear()
        await sell(hub, feed, [1 + n % 2 for n in range(CHANGES)])
        assert calls["apply"] == CHANGES
        assert (calls["deltas"], calls["text_frame"]) == (3 * CHANGES, 3 * CHANGES)


class TestAConnection:
    MORE_BYTES = 1024
    CONNECTIONS = 200
    LOADED = 20  # of each kind before, for what is made once

    async def test_with_a_token_and_a_scope_costs_at_most_a_kibibyte_more(self) -> None:
        verifier = TokenVerifier(TokenRules(), KeyRing(secret_key(SECRET)))
        entrance = Entrance(anonymous=ANYBODY, authority=Authority(verifier))
        claims = {"vendor_id": "V", "locations": ["L1"], "permissions": ["inv:read:exact", "inv:read:public"]}
        without = Visit("/realtime?topics=product:A")
        tokens = (
            Visit("/realtime?topics=product:A", headers={"Authorization": f"Bearer {token}"})
            for token in subjects(**claims)
        )
        async with make_gate(entrance=entrance) as gate, open_sinks() as sinks:
            gate.feed.rows["product:A"] = [product("A", 1), stock("A", 2)]
            tracemalloc.start()
            try:
                for visits in (without, tokens):
                    await self.grown(gate.port, sinks, visits, self.LOADED)
                plain = await self.grown(gate.port, sinks, without, self.CONNECTIONS)
                scoped = await self.grown(gate.port, sinks, tokens, self.CONNECTIONS)
            finally:
                tracemalloc.stop()
            assert (
                entrance.statistics()["gateway_authenticated_connections"] == self.CONNECTIONS + self.LOADED
            )
        assert plain > 1024  # it is measured at all
        assert scoped - plain <= self.MORE_BYTES

    async def grown(self, port: int, sinks: Sinks, visits: Visit | Iterable[Visit], count: int) -> float:
        """Bytes of each of so many connections more, with a snapshot each."""
        before = (await sinks.counts()).kinds.get("s", 0)
        gc.collect()
        began = tracemalloc.get_traced_memory()[0]
        await sinks.connect(port, visits, count)
        await sinks.wait_frames(before + count, kind="s")
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - began) / count
