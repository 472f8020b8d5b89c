import asyncio
import base64
import random
import time

import pytest

from tests.browser.client_page import ClientPage
from tests.browser.fake_gateway import FakeConnection, FakeGateway
from tests.browser.shop import product, shelves, stock
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


class TestComingBack:
    async def test_resumes_by_position_and_hears_what_it_missed(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        gateway.hold("location:L1", *shelves(600))
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
        gateway.hold("location:L1", *shelves(600))
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
        gateway.hold("location:L1", *shelves(600, version=9))
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
        gateway.hold("product:A", product("A"), stock("A", "L1", 2, 4))
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
        gateway.hold("product:A", product("A"), stock("A", "L1", 2, 4))
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
        gateway.hold("product:A", stock("A", "L1", 5, 10))
        await client.open("product:A")
        await client.wait_live("product:A")
        await gateway.stop()
        await eventually(lambda: client.js("client.state !== 'open'"))
        assert "stock:A:L1" in await client.items("product:A")
        assert await client.js("client.fresh") is False
        gateway.hold("product:A", stock("A", "L1", 4, 11))
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
        gateway.hold("product:A", stock("A", "L1", 5, 10))
        await client.open("product:A")
        await client.wait_live("product:A")
        gateway.connections[0].muted = True
        await client.wait_connections(2)
        assert await client.js("client.lastClose.reason") == "nothing heard for two heartbeats"

    async def test_a_connection_that_carries_anything_is_kept(
        self, client: ClientPage, gateway: FakeGateway
    ) -> None:
        gateway.heartbeat_s = 0.5
        await client.open("product:A")
        await client.wait_live("product:A")
        for version in range(8):
            await gateway.publish("product:A", stock("A", "L1", 5, version))
            await asyncio.sleep(0.25)  # the time that passes is what is tested
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
    version, deadline = 0, time.monotonic() + 30
    while version < 700 or gateway.handshakes < 5:
        assert time.monotonic() < deadline
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
    assert await client.js("client.stats.resumed") > 0


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
