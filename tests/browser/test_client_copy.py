import pytest

from tests.browser.client_page import ClientPage
from tests.browser.fake_gateway import FakeGateway
from tests.browser.shop import product, shelves, stock
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


class TestCopy:
    async def test_a_snapshot_of_many_parts_and_what_follows_it(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        gateway.hold("location:L1", *shelves(1100))
        await client.open("location:L1")
        await client.wait_equal("location:L1")
        await gateway.publish("location:L1", stock("P7", "L1", 3, 2), stock("NEW", "L1", 1, 3))
        await client.wait_equal("location:L1")
        assert await client.js("client.topics.get('location:L1').seq") == 1

    async def test_an_item_at_or_below_the_held_version_is_ignored(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        gateway.hold("product:A", stock("A", "L1", 5, 10))
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
        gateway.hold("product:A", stock("A", "L1", 5, 10))
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
        gateway.hold("location:L1", *shelves(600))
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
        gateway.hold("location:L1", *shelves(600, version=50))
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
        gateway.hold("product:A", stock("A", "L1", 5, 10))
        await client.open("product:A")
        await client.wait_live("product:A")
        gateway.hold("product:A", stock("A", "L1", 6, 2))
        gateway.topic("product:A").epoch = "e2"
        items = [stock("A", "L1", 77, 99)]
        await gateway.send({"type": "delta", "topic": "product:A", "epoch": "e2", "seq": 1, "items": items})
        await client.wait_equal("product:A")
        assert "resume" not in gateway.asked("subscribe")[-1]

    async def test_changes_come_in_batches_with_what_was_before(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        gateway.hold("product:A", stock("A", "L1", 5, 1))
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
        gateway.hold("product:A", product("A"), stock("A", "L1", 2, 4))
        gateway.hold("product:B", product("B"), stock("B", "L1", 2, 4))
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
        gateway.hold("product:A", product("A"), stock("A", "L1", 2, 4))
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
        gateway.hold("product:A", stock("A", "L1", 5, 10))
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
        gateway.hold("product:A", stock("A", "L1", 5, 10))
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
        gateway.hold("vendor:V", stock("A", "L1", 5, 10))
        await client.open("vendor:V")
        await client.wait_live("vendor:V")
        await gateway.send({"type": "unsubscribed", "topic": "vendor:V", "reason": "scope_changed"})
        await eventually(lambda: client.js("client.topics.get('vendor:V').error?.code === 'scope_changed'"))
        assert await client.items("vendor:V") == {}
        await eventually(lambda: client.js("events.at(-1)[0] === 'change'"))
        assert (await client.events("change"))[-1][2] == [["stock:A:L1", None]]


class TestSize:
    async def test_a_topic_of_fifty_thousand_items(self, client: ClientPage, gateway: FakeGateway) -> None:
        gateway.hold("location:L1", *shelves(50_000))
        await client.open()
        await client.run(
            "globalThis.longestTask = 0; new PerformanceObserver((list) => { for (const { duration } of"
            " list.getEntries()) longestTask = Math.max(longestTask, duration); })"
            ".observe({ entryTypes: ['longtask'] }); client.subscribe('location:L1')"
        )
        await eventually(lambda: client.js("client.topics.get('location:L1').state === 'live'"), 15)
        longest = await client.js("longestTask")
        assert await client.js("client.topics.get('location:L1').items.size") == 50_000
        assert longest < 1000, "the page is never held up for long"
