import asyncio
import base64
import random
import time
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page

from protocol.items import item_key
from tests.browser.client_page import ClientPage
from tests.browser.fake_gateway import FakeConnection, FakeGateway
from tests.browser.shop import product, stock
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def client(page: Page, gateway: FakeGateway) -> ClientPage:
    return ClientPage(page, gateway)


def hold(gateway: FakeGateway, topic: str, *items: dict[str, Any]) -> None:
    gateway.topic(topic).items = {item_key(item): item for item in items}


def shelves(count: int, version: int = 1) -> list[dict[str, Any]]:
    return [stock(f"P{number}", "L1", number % 50, version) for number in range(count)]


class TestCopy:
    async def test_a_snapshot_of_many_parts_and_what_follows_it(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        hold(gateway, "location:L1", *shelves(1100))
        await client.open("location:L1")
        await client.wait_equal("location:L1")
        await gateway.publish("location:L1", stock("P7", "L1", 3, 2), stock("NEW", "L1", 1, 3))
        await client.wait_equal("location:L1")
        assert await client.js("client.topics.get('location:L1').seq") == 1

    async def test_an_item_at_or_below_the_held_version_is_ignored(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        hold(gateway, "product:A", stock("A", "L1", 5, 10))
        await client.open("product:A")
        await client.wait_live("product:A")
        late = [stock("A", "L1", 99, 9), stock("A", "L1", 98, 10), stock("B", "L1", 1, 1)]
        delta = {"type": "delta", "topic": "product:A", "epoch": "e1", "seq": 1, "items": late}
        await gateway.send(delta)
        await eventually(lambda: client.js("client.topics.get('product:A').items.has('stock:B:L1')"))
        assert (await client.items("product:A"))["stock:A:L1"]["available"] == 5

    async def test_the_version_of_a_deleted_item_is_remembered(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        hold(gateway, "product:A", stock("A", "L1", 5, 10))
        await client.open("product:A")
        await client.wait_live("product:A")
        await gateway.publish("product:A", stock("A", "L1", 0, 12, deleted=True))
        await client.wait_equal("product:A")
        delta = {"type": "delta", "topic": "product:A", "epoch": "e1", "seq": 2}
        await gateway.send(delta | {"items": [stock("A", "L1", 7, 11), stock("A", "L2", 1, 1)]})
        await eventually(lambda: client.js("client.topics.get('product:A').items.size === 1"))
        assert list(await client.items("product:A")) == ["stock:A:L2"]
        await gateway.send(delta | {"seq": 3, "items": [stock("A", "L1", 7, 13)]})
        await eventually(lambda: client.js("client.topics.get('product:A').items.has('stock:A:L1')"))

    async def test_part_one_replaces_also_an_unfinished_snapshot(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        hold(gateway, "location:L1", *shelves(600))
        gateway.parts_before_silence = 1
        await client.open("location:L1")
        await eventually(lambda: client.js("client.topics.get('location:L1').items.size === 250"))
        assert await client.topic_state("location:L1") == "waiting"
        gateway.parts_before_silence = 100
        await gateway.new_epoch("location:L1", "e2", shelves(300, 1)[200:])
        await client.wait_equal("location:L1")
        await client.wait_live("location:L1")

    async def test_a_new_epoch_replaces_everything_in_one_step_even_with_lower_versions(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        hold(gateway, "location:L1", *shelves(600, version=50))
        await client.open("location:L1")
        await client.wait_equal("location:L1")
        await client.run("events.length = 0")
        await gateway.new_epoch("location:L1", "e2", shelves(580, version=3))
        await client.wait_equal("location:L1")
        changes = await client.events("change")
        assert len(changes) == 1, "the old copy stays whole until the new one is"
        _, _, changed, reset = changes[0]
        assert reset
        assert sum(version is None for _, version in changed) == 20

    async def test_a_delta_of_another_epoch_is_not_applied_but_answered_by_a_fresh_start(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        hold(gateway, "product:A", stock("A", "L1", 5, 10))
        await client.open("product:A")
        await client.wait_live("product:A")
        hold(gateway, "product:A", stock("A", "L1", 6, 2))
        gateway.topic("product:A").epoch = "e2"
        items = [stock("A", "L1", 77, 99)]
        await gateway.send({"type": "delta", "topic": "product:A", "epoch": "e2", "seq": 1, "items": items})
        await client.wait_equal("product:A")
        assert "resume" not in gateway.asked("subscribe")[-1]

    async def test_changes_come_in_batches_with_what_was_before(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        hold(gateway, "product:A", stock("A", "L1", 5, 1))
        await client.open("product:A", batchMs=150)
        await client.wait_live("product:A")
        await eventually(lambda: client.events("change"))
        await client.run(
            "events.length = 0; client.on('change', ({changes}) => globalThis.last = changes.map("
            "({item, previous}) => [item.available, previous.available]))"
        )
        for version in range(2, 20):
            await gateway.publish("product:A", stock("A", "L1", version, version))
        await client.wait_equal("product:A")
        await eventually(lambda: client.js("globalThis.last"))
        assert len(await client.events("change")) <= 2
        assert (await client.js("last"))[0][0] == 19

    async def test_an_unknown_message_or_field_is_ignored(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        await client.open("product:A")
        await client.wait_live("product:A")
        await gateway.send({"type": "novelty", "topic": "product:A", "items": 3})
        await gateway.publish("product:A", stock("A", "L1", 1, 1, novelty=[1]))
        await client.wait_equal("product:A")


class TestSubscribing:
    async def test_many_topics_go_out_in_messages_within_both_limits(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        gateway.limits = {"max_message_bytes": 2048, "max_topics": 500}
        names = [f"product:{'x' * 30}-{number}" for number in range(130)]
        short = [f"product:{number}" for number in range(130)]
        await client.open(*names, *short)
        await client.wait_live(*names[::43], *short[::43])
        asked = gateway.asked("subscribe")
        assert [name for message in asked for name in message["topics"]] == names + short
        assert max(len(message["topics"]) for message in asked) <= 100
        assert len(asked) < 8
        gateway.abort()
        await client.wait_connections(2)
        await client.wait_live(*names[::43], *short[::43])
        assert await client.js("client.lastClose.code") == 1006

    async def test_two_views_of_two_topics(self, client: ClientPage, gateway: FakeGateway) -> None:
        hold(gateway, "product:A", product("A"), stock("A", "L1", 2, 4))
        hold(gateway, "product:B", product("B"), stock("B", "L1", 2, 4))
        await client.open()
        await client.run(
            "client.subscribe('product:A', {view: 'public'}); client.subscribe('product:B', {view: 'exact'})"
        )
        await client.wait_live("product:A", "product:B")
        assert (await client.items("product:A"))["availability:A"]["only_left"] == 2
        assert "stock:B:L1" in await client.items("product:B")

    async def test_another_view_replaces_the_subscription(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        hold(gateway, "product:A", product("A"), stock("A", "L1", 2, 4))
        await client.open()
        await client.run("client.subscribe('product:A', {view: 'exact'})")
        await client.wait_live("product:A")
        await client.run("client.subscribe('product:A', {view: 'public'})")
        await client.wait_live("product:A")
        assert set(await client.items("product:A")) == {"product:A", "availability:A"}

    async def test_a_topic_is_left_when_its_last_user_has_left_it(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        await client.open("product:A", "product:A")
        await client.wait_live("product:A")
        await client.run("client.unsubscribe('product:A')")
        assert await client.js("client.topics.size") == 1
        await client.run("globalThis.left = client.topics.get('product:A'); client.unsubscribe(left)")
        await eventually(lambda: gateway.asked("unsubscribe"))
        assert await client.js("[client.topics.size, left.state]") == [0, "closed"]

    async def test_subscribing_anew_is_not_confused_by_answers_to_before(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        hold(gateway, "product:A", stock("A", "L1", 5, 10))
        await client.open("product:A")
        await client.wait_live("product:A")
        await client.run(
            "for (let i = 0; i < 20; i++) { client.unsubscribe('product:A'); client.subscribe('product:A'); }"
        )
        await client.wait_equal("product:A")
        await gateway.publish("product:A", stock("A", "L1", 4, 11))
        await client.wait_equal("product:A")

    @pytest.mark.parametrize("code", ["unavailable", "rate_limited"])
    async def test_a_refusal_for_now_is_retried_after_the_time_it_gives(
        self, client: ClientPage, gateway: FakeGateway, code: str
    ) -> None:
        refusal = {"code": code, "message": "later", "retry_after_ms": 120}
        gateway.refusals["product:A"] = [refusal, refusal]
        hold(gateway, "product:A", stock("A", "L1", 5, 10))
        await client.open("product:A", "product:B")
        await client.wait_live("product:B")
        await client.wait_equal("product:A")
        assert [m["topics"] for m in gateway.asked("subscribe")][1:] == [["product:A"], ["product:A"]]

    async def test_a_request_refused_as_a_whole_is_retried_as_a_whole(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        await client.open()
        await client.wait_connections(1)
        gateway.connections[0].muted = True
        await client.run("client.subscribe(['product:A', 'product:B'])")
        first = (await eventually(lambda: gateway.asked("subscribe")))[0]
        gateway.connections[0].muted = False
        refusal = {"code": "rate_limited", "message": "slower", "retry_after_ms": 50}
        await gateway.send({"type": "error", "id": first["id"]} | refusal)
        await client.wait_live("product:A", "product:B")
        assert gateway.asked("subscribe")[1]["topics"] == ["product:A", "product:B"]

    async def test_a_final_refusal_is_told_and_not_retried(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        gateway.refusals["vendor:V"] = [{"code": "forbidden", "message": "not yours"}]
        await client.open("vendor:V", "product:A", "product:a b")
        await client.wait_live("product:A")
        assert await client.topic_state("vendor:V") == "error"
        assert await client.js("client.topics.get('vendor:V').error") == {
            "code": "forbidden",
            "message": "not yours",
            "retryAt": None,
        }
        assert await client.js("client.topics.get('product:a b').error.code") == "unknown_topic"

    async def test_a_topic_that_is_taken_away_is_forgotten(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        hold(gateway, "vendor:V", stock("A", "L1", 5, 10))
        await client.open("vendor:V")
        await client.wait_live("vendor:V")
        await gateway.send({"type": "unsubscribed", "topic": "vendor:V", "reason": "scope_changed"})
        await eventually(lambda: client.js("client.topics.get('vendor:V').error?.code === 'scope_changed'"))
        assert await client.items("vendor:V") == {}
        await eventually(lambda: client.js("events.at(-1)[0] === 'change'"))
        assert (await client.events("change"))[-1][2] == [["stock:A:L1", None]]


class TestComingBack:
    async def test_resumes_by_position_and_hears_what_it_missed(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        hold(gateway, "location:L1", *shelves(600))
        await client.open("location:L1")
        await client.wait_equal("location:L1")
        await gateway.publish("location:L1", stock("P1", "L1", 1, 5))
        await client.wait_equal("location:L1")
        gateway.abort()
        gateway.topic("location:L1").apply([stock("P2", "L1", 2, 6)])
        await client.wait_connections(2)
        await client.wait_equal("location:L1")
        assert gateway.asked("subscribe")[-1]["resume"] == {"location:L1": {"epoch": "e1", "seq": 1}}
        assert await client.js("client.stats.snapshots") == 1
        assert await client.js("client.stats.resumed") == 1

    async def test_a_snapshot_that_was_cut_off_is_no_ground_to_resume_from(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        hold(gateway, "location:L1", *shelves(600))
        gateway.parts_before_silence = 2
        await client.open("location:L1")
        await eventually(lambda: client.js("client.topics.get('location:L1').items.size === 500"))
        gateway.parts_before_silence = 100
        gateway.abort()
        await client.wait_equal("location:L1")
        assert "resume" not in gateway.asked("subscribe")[-1]

    async def test_a_replacement_that_was_cut_off_leaves_the_copy_before_it(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        hold(gateway, "location:L1", *shelves(600, version=9))
        await client.open("location:L1")
        await client.wait_equal("location:L1")
        gateway.parts_before_silence = 1
        await gateway.new_epoch("location:L1", "e2", shelves(600, version=2))
        await eventually(lambda: client.js("client.topics.get('location:L1').state === 'waiting'"))
        assert await client.js("client.topics.get('location:L1').epoch") == "e1"
        assert {item["version"] for item in (await client.items("location:L1")).values()} == {9}
        gateway.parts_before_silence = 100
        gateway.abort()
        await client.wait_equal("location:L1")
        assert gateway.asked("subscribe")[-1]["resume"]["location:L1"]["epoch"] == "e1"

    async def test_a_public_copy_is_never_resumed(self, client: ClientPage, gateway: FakeGateway) -> None:
        hold(gateway, "product:A", product("A"), stock("A", "L1", 2, 4))
        await client.open("product:A", view="public")
        await client.wait_live("product:A")
        gateway.abort()
        await client.wait_connections(2)
        await client.wait_live("product:A")
        assert "resume" not in gateway.asked("subscribe")[-1]

    async def test_a_copy_whose_view_the_server_chose_is_resumed_only_if_it_holds_stock(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        gateway.default_view = "public"
        hold(gateway, "product:A", product("A"), stock("A", "L1", 2, 4))
        await client.open("product:A")
        await client.wait_live("product:A")
        gateway.default_view = "exact"
        gateway.abort()
        await client.wait_connections(2)
        await client.wait_equal("product:A")
        assert "resume" not in gateway.asked("subscribe")[-1]

    async def test_what_is_known_stays_readable_meanwhile(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        hold(gateway, "product:A", stock("A", "L1", 5, 10))
        await client.open("product:A")
        await client.wait_live("product:A")
        await gateway.stop()
        await eventually(lambda: client.js("client.state !== 'open'"))
        assert "stock:A:L1" in await client.items("product:A")
        assert await client.js("client.fresh") is False
        hold(gateway, "product:A", stock("A", "L1", 4, 11))
        gateway.topic("product:A").epoch = "e2"
        await gateway.start()
        await client.wait_equal("product:A")
        assert await client.js("client.fresh") is True

    async def test_tries_spread_out_at_random_under_a_growing_bound(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        async def turn_away(connection: FakeConnection) -> bool:
            connection.abort()
            return False

        gateway.greet = turn_away
        await client.open("product:A")
        await client.run(
            "globalThis.delays = []; client.on('state', (state) => state === 'waiting' &&"
            " delays.push(client.retryAt - Date.now()))"
        )
        await eventually(lambda: client.js("delays.length >= 8"))
        delays = (await client.js("delays"))[:8]
        assert all(delay <= 401 for delay in delays)
        assert max(delays) > 40, "the bound has grown"
        gateway.greet = None
        await client.wait_live("product:A")

    @pytest.mark.parametrize("code", [4400, 4403, 1002, 1009])
    async def test_codes_that_mean_stop(self, client: ClientPage, gateway: FakeGateway, code: int) -> None:
        await client.open("product:A")
        await client.wait_live("product:A")
        await gateway.close(code)
        await eventually(lambda: client.js("client.state === 'closed'"))
        assert await client.js("client.lastClose.code") == code
        assert gateway.handshakes == 1
        await client.run("client.reconnect()")
        await client.wait_live("product:A")

    @pytest.mark.parametrize("code", [1012, 1013, 4429, 1001])
    async def test_codes_that_mean_come_back(
        self, client: ClientPage, gateway: FakeGateway, code: int
    ) -> None:
        await client.open("product:A")
        await client.wait_live("product:A")
        await gateway.close(code)
        await client.wait_connections(2)
        await client.wait_live("product:A")

    async def test_a_refused_token_is_asked_for_again(self, client: ClientPage, gateway: FakeGateway) -> None:
        async def turn_away(connection: FakeConnection) -> bool:
            if connection.subprotocols[1:] == ["bearer." + _base64url("new ü")]:
                return True
            await connection.send({"type": "error", "code": "token_expired", "message": "get another"})
            await connection.socket.close(4401)
            return False

        gateway.greet = turn_away
        await client.open("product:A", tokens=["old", "new ü"])
        await client.wait_live("product:A")
        assert await client.js("tokenCalls") == [False, True]

    async def test_a_fixed_token_that_is_refused_ends_it(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        await client.open("product:A", token="fixed")
        await client.wait_live("product:A")
        await gateway.close(4408)
        await eventually(lambda: client.js("client.state === 'closed'"))

    async def test_a_token_that_ends_soon_is_renewed_on_the_same_connection(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        await client.open("product:A", tokens=["one", "two"])
        await client.wait_live("product:A")
        await gateway.send({"type": "auth_expiring", "expires_at": "2026-11-22T10:00:00.000Z"})
        await eventually(lambda: gateway.asked("auth"))
        assert gateway.asked("auth")[0]["token"] == "two"
        assert gateway.handshakes == 1

    async def test_a_drained_client_leaves_at_the_time_it_was_given(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        await client.open("product:A")
        await client.wait_live("product:A")
        started = asyncio.get_running_loop().time()
        await gateway.send({"type": "reconnect", "after_ms": 300})
        await client.wait_connections(2)
        assert asyncio.get_running_loop().time() - started >= 0.29
        await client.wait_live("product:A")

    async def test_a_drained_client_that_is_closed_early_still_waits_its_turn(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        await client.open("product:A")
        await client.wait_live("product:A")
        started = asyncio.get_running_loop().time()
        await gateway.send({"type": "reconnect", "after_ms": 400})
        await gateway.close(1012)
        await client.wait_connections(2)
        assert asyncio.get_running_loop().time() - started >= 0.39


class TestTrust:
    async def test_stale_and_fresh(self, client: ClientPage, gateway: FakeGateway) -> None:
        gateway.stale_since = "2026-11-22T10:00:00.000Z"
        await client.open("product:A")
        await client.wait_live("product:A")
        assert await client.js("[client.stale, client.staleSince, client.fresh]") == [
            True,
            gateway.stale_since,
            False,
        ]
        await gateway.send({"type": "fresh", "as_of": "2026-11-22T10:00:09.000Z"})
        await eventually(lambda: client.js("client.fresh"))
        assert await client.js("[client.staleSince, client.asOf]") == [None, "2026-11-22T10:00:09.000Z"]
        heartbeat = {"type": "heartbeat", "time": "2026-11-22T10:00:20.000Z", "stale": True}
        await gateway.send(heartbeat | {"as_of": "2026-11-22T10:00:10.000Z"})
        await eventually(lambda: client.js("client.stale"))
        assert await client.js("client.asOf") == "2026-11-22T10:00:10.000Z"

    async def test_a_connection_that_falls_silent_is_left(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        gateway.heartbeat_s = 0.2
        hold(gateway, "product:A", stock("A", "L1", 5, 10))
        await client.open("product:A")
        await client.wait_live("product:A")
        gateway.connections[0].muted = True
        await client.wait_connections(2)
        assert await client.js("client.lastClose.reason") == "nothing heard for two heartbeats"

    async def test_a_connection_that_carries_anything_is_kept(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        gateway.heartbeat_s = 0.2
        await client.open("product:A")
        await client.wait_live("product:A")
        for version in range(8):
            await gateway.publish("product:A", stock("A", "L1", 5, version))
            await asyncio.sleep(0.1)  # the time that passes is what is tested
        assert gateway.handshakes == 1

    async def test_no_welcome_in_time_is_a_failed_try(self, client: ClientPage, gateway: FakeGateway) -> None:
        async def say_nothing(connection: FakeConnection) -> bool:
            gateway.greet = None
            await connection.socket.wait_closed()
            return False

        gateway.greet = say_nothing
        await client.open("product:A", connectTimeoutMs=200)
        await client.wait_live("product:A")
        assert gateway.handshakes == 2

    async def test_a_page_that_wakes_asks_an_old_connection_for_a_sign_of_life(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        await client.open("product:A")
        await client.wait_live("product:A")
        await client.run("document.dispatchEvent(new Event('visibilitychange'))")
        await eventually(lambda: gateway.asked("ping"))
        gateway.connections[0].muted = True  # the network changed while the machine slept
        await client.run("dispatchEvent(new Event('online'))")
        await client.wait_connections(2)
        assert await client.js("client.lastClose.reason") == "no answer after a pause"

    async def test_a_page_that_wakes_does_not_sit_out_a_backoff(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        await client.open("product:A", backoffMs=60_000, backoffMaxMs=60_000)
        await client.wait_live("product:A")
        await gateway.stop()
        await eventually(lambda: client.js("client.state === 'waiting'"))
        await gateway.start()
        await client.run("dispatchEvent(new Event('online'))")
        await client.wait_live("product:A")

    async def test_measures_the_round_trip(self, client: ClientPage, gateway: FakeGateway) -> None:
        await client.open("product:A", pingMs=50)
        await eventually(lambda: client.js("client.latencyMs"))
        assert 0 < await client.js("client.latencyMs") < 2000
        assert abs(await client.js("client.clockOffsetMs")) < 2000

    async def test_close_ends_everything(self, client: ClientPage, gateway: FakeGateway) -> None:
        await client.open("product:A", pingMs=50)
        await client.wait_live("product:A")
        await client.run("client.close()")
        await eventually(lambda: not gateway.connections)
        await client.run("dispatchEvent(new Event('online'))")
        assert await client.js("[client.state, client.topics.size]") == ["closed", 0]
        assert gateway.handshakes == 1

    async def test_a_listener_that_throws_harms_nobody_else(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        await client.open("product:A")
        await client.run("globalThis.onerror = () => true")
        await client.run("client.on('topic', () => { throw new Error('the page is wrong'); })")
        await client.wait_live("product:A")
        await gateway.publish("product:A", stock("A", "L1", 5, 1))
        await client.wait_equal("product:A")


async def test_a_long_trouble_ends_with_equal_copies(client: ClientPage, gateway: FakeGateway) -> None:
    """Changes, deletions, lost connections and new epochs in any order; no version falls within an epoch."""
    chance = random.Random(3)
    names = [f"product:{number}" for number in range(30)]
    await client.open(*names, batchMs=4)
    version, alive = 0, time.monotonic() + 4
    while time.monotonic() < alive:
        version += 1
        name = chance.choice(names)
        item = stock(name[8:], chance.choice("abcdef"), version, version)
        match chance.randrange(100):
            case 0:
                gateway.abort()
            case 1:
                await gateway.close(1012)
            case 2 | 3:
                held = chance.sample(
                    list(gateway.topic(name).items.values()), k=len(gateway.topic(name).items) // 2
                )
                await gateway.new_epoch(name, f"epoch-{version}", [one | {"version": 1} for one in held])
            case number if number < 20:
                await gateway.publish(name, item | {"deleted": True})
            case _:
                await gateway.publish(name, item)
        await asyncio.sleep(0.002)
    for name in names:
        await client.wait_equal(name)
    assert await client.js("versionsFellBack") == []
    assert gateway.handshakes > 3
    assert await client.js("client.stats.resumed") > 0


class TestSize:
    async def test_a_topic_of_fifty_thousand_items(self, client: ClientPage, gateway: FakeGateway) -> None:
        hold(gateway, "location:L1", *shelves(50_000))
        await client.open()
        await client.run(
            "globalThis.longestTask = 0; new PerformanceObserver((list) => { for (const { duration } of"
            " list.getEntries()) longestTask = Math.max(longestTask, duration); })"
            ".observe({ entryTypes: ['longtask'] }); client.subscribe('location:L1')"
        )
        await eventually(lambda: client.js("client.topics.get('location:L1').state === 'live'"), 15)
        longest = await client.js("longestTask")
        assert await client.js("client.topics.get('location:L1').items.size") == 50_000
        assert longest < 500, "the page is never held up for long"


async def test_works_from_another_site(client: ClientPage, gateway: FakeGateway) -> None:
    """The page comes from another origin than the module and the socket; no cookie goes along."""
    site = FakeGateway()
    await site.start()
    await client.page.goto(f"http://localhost:{site.port}/elsewhere")
    await client.page.evaluate(
        """async (gateway) => {
          const { connect } = await import(gateway + "client.js");
          globalThis.client = connect(gateway + "realtime");
          client.subscribe("product:A");
        }""",
        gateway.url,
    )
    await client.wait_live("product:A")
    request = gateway.connections[0].socket.request
    assert request is not None
    assert request.headers["Origin"] == f"http://localhost:{site.port}"
    assert "Cookie" not in request.headers
    await site.stop()


def _base64url(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
