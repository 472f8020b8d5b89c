"""Real sockets and the real HTTP server, with a feed in memory behind the hub."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol

from gateway.admission import ConnectionLimits
from gateway.arrivals import EdgeSettings
from gateway.rates import RateKind, RateLimit, Rates
from gateway.realtime import ClientLimits
from protocol.envelope import Beat
from protocol.principal import Principal
from tests.support.gate import ANYBODY, Gate, make_gate
from tests.support.messages import next_message
from tests.support.replica import stock
from tests.support.waiting import eventually

TOPIC = "location:L1"


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    async with make_gate() as gate:
        yield gate


async def close_code(client: Any) -> int:
    async with asyncio.timeout(10):
        try:
            while True:
                await client.recv()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else 1006


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


def text(**message: Any) -> str:
    return orjson.dumps(message).decode()


def position(snapshot: Any) -> Any:
    return {name: snapshot[name] for name in ("epoch", "seq")}


def frame(payload: bytes, *, opcode: int = 1, fin: bool = True) -> bytes:
    """Masked by zeros, as a client must mask."""
    head = bytes([(0x80 if fin else 0) | opcode])
    if len(payload) < 126:
        head += bytes([0x80 | len(payload)])
    else:
        head += struct.pack("!BH", 0x80 | 126, len(payload))
    return head + bytes(4) + payload


class TestHandshake:
    async def test_no_subprotocol_is_inventory_v1(self, gate: Gate) -> None:
        async with gate.connect() as client:
            welcome = await next_message(client, "welcome")
            assert client.subprotocol is None
        assert welcome["protocol"] == "inventory.v1"
        assert welcome["limits"] == {"max_message_bytes": 16384, "max_topics": 500}

    async def test_ours_is_chosen_among_others(self, gate: Gate) -> None:
        offered = [Subprotocol("chat"), Subprotocol("inventory.v1")]
        async with gate.connect(subprotocols=offered) as client:
            assert client.subprotocol == "inventory.v1"

    async def test_none_of_ours_is_answered_without_one(self, gate: Gate) -> None:
        async with gate.connect(subprotocols=[Subprotocol("chat")]) as client:
            assert client.subprotocol is None

    @pytest.mark.parametrize("identity_s", [0, 0.05])
    async def test_frames_that_do_not_wait_for_the_answer_are_heard(
        self, gate: Gate, identity_s: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def identify(_: object, done: Callable[[Principal], None]) -> None:
            asyncio.get_running_loop().call_later(identity_s, done, ANYBODY)

        if identity_s:
            monkeypatch.setattr(gate.realtime.entrance, "identify", identify)
        ping = Frame(Opcode.TEXT, b'{"type":"ping","id":"early"}').serialize(mask=True)
        async with gate.raw() as (reader, writer):
            writer.write(
                b"GET /realtime HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n" + ping
            )
            async with asyncio.timeout(5):
                assert b'"pong","id":"early"' in await reader.readuntil(b'"early"')

    async def test_another_path_is_not_found(self, gate: Gate) -> None:
        with pytest.raises(InvalidStatus) as refused:
            async with gate.connect("/elsewhere"):
                pass
        assert refused.value.response.status_code == 404

    @pytest.mark.parametrize("origin", ["https://evil.example", "null"])
    async def test_a_foreign_origin_is_403(self, gate: Gate, origin: str) -> None:
        with pytest.raises(InvalidStatus) as refused:
            async with gate.connect(origin=origin):
                pass
        assert refused.value.response.status_code == 403

    async def test_the_own_origin_and_allowed_ones_pass(self) -> None:
        async with make_gate(origins=("https://shop.example",)) as gate:
            for origin in (f"http://127.0.0.1:{gate.port}", "https://shop.example"):
                async with gate.connect(origin=origin) as client:
                    await next_message(client, "welcome")

    async def test_topics_in_the_url_are_subscribed_without_an_id(self, gate: Gate) -> None:
        gate.feed.rows[TOPIC] = [stock("A", 1)]
        async with gate.connect(f"/realtime?topics={TOPIC},product:A") as client:
            got = [await next_message(client, "snapshot") for _ in range(2)]
        assert {message["topic"] for message in got} == {TOPIC, "product:A"}
        assert all("id" not in message for message in got)

    async def test_a_half_open_handshake_is_dropped(self) -> None:
        async with (
            make_gate(edge=EdgeSettings(request_timeout_s=0.2)) as gate,
            gate.raw() as (reader, writer),
        ):
            writer.write(b"GET /realtime HTTP/1.1\r\nHost: x\r\nUpgr")
            assert await asyncio.wait_for(ended(reader), 5)

    async def test_a_head_without_end_is_refused(self, gate: Gate) -> None:
        async with gate.raw() as (reader, writer):
            writer.write(b"GET /realtime HTTP/1.1\r\nHost: x\r\n")
            with contextlib.suppress(ConnectionError):
                for number in range(100):
                    writer.write(b"X-%d: %s\r\n" % (number, b"x" * 1000))
                    await writer.drain()
            assert (await asyncio.wait_for(reader.readline(), 5)).split()[1] == b"431"

    async def test_a_large_head_and_a_body_are_none(self, gate: Gate) -> None:
        head = b"POST /x HTTP/1.1\r\nHost: x\r\nX: %s\r\nContent-Length: 200000\r\n\r\n" % (b"x" * 20_000)
        async with gate.raw() as (reader, writer):
            for _ in range(4):
                writer.write(head + b"y" * 200_000)
                assert (await asyncio.wait_for(reader.readline(), 5)).split()[1] == b"404"
                await asyncio.wait_for(reader.readuntil(b"Not Found"), 5)

    @pytest.mark.parametrize("garbage", [b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"])
    async def test_garbage_disturbs_nobody(self, gate: Gate, garbage: bytes) -> None:
        async with gate.connect() as client, gate.raw() as (reader, writer):
            writer.write(garbage)
            await asyncio.wait_for(reader.read(), 5)
            await client.send(text(type="ping", id="p"))
            assert (await next_message(client, "pong"))["id"] == "p"

    async def test_a_version_we_do_not_speak_is_refused(self, gate: Gate) -> None:
        async with gate.raw() as (reader, writer):
            writer.write(
                b"GET /realtime HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 7\r\n\r\n"
            )
            assert (await asyncio.wait_for(reader.readline(), 5)).split()[1] == b"400"

    async def test_a_draining_replica_takes_nobody(self, gate: Gate) -> None:
        await gate.realtime.drain(0)
        with pytest.raises(InvalidStatus) as refused:
            async with gate.connect():
                pass
        assert refused.value.response.status_code == 503
        assert int(refused.value.response.headers["Retry-After"]) >= 1


class TestCredentials:
    async def test_without_any_where_they_are_needed(self) -> None:
        async with make_gate(principal=None, auth_timeout_s=0.3) as gate, gate.connect() as client:
            assert (await next_message(client, "welcome"))["principal"] is None
            await client.send(text(type="ping", id="p"))
            await next_message(client, "pong")
            await client.send(text(type="subscribe", id="s", topics=[TOPIC]))
            error = await next_message(client, "error")
            assert (error["code"], error["id"]) == ("unauthenticated", "s")
            assert await close_code(client) == 4408

    @pytest.mark.parametrize(
        "options",
        [
            {"additional_headers": {"Authorization": "Bearer x"}},
            {"additional_headers": {"Authorization": "Basic x"}},
            {"subprotocols": ["inventory.v1", "bearer.eA"]},
            {"subprotocols": ["inventory.v1", "bearer.*"]},
        ],
    )
    async def test_those_that_can_not_be_checked_are_never_ignored(
        self, gate: Gate, options: dict[str, Any]
    ) -> None:
        async with gate.connect(**options) as client:
            assert client.subprotocol in (None, "inventory.v1")
            assert (await next_message(client, "error"))["code"] == "unauthenticated"
            assert await close_code(client) == 4401


class TestBadInput:
    @pytest.mark.parametrize(
        "data", ["{", "[]", "1", '"x"', "null", "[" * 5000, '{"a":' * 2000 + "1" + "}" * 2000, "\u0000"]
    )
    async def test_no_json_object_is_4400(self, gate: Gate, data: str) -> None:
        async with gate.connect() as client:
            await client.send(data)
            assert (await next_message(client, "error"))["code"] == "bad_message"
            assert await close_code(client) == 4400

    async def test_a_binary_frame_is_4400(self, gate: Gate) -> None:
        async with gate.connect() as client:
            await client.send(b"\x00\x01")
            assert (await next_message(client, "error"))["code"] == "bad_message"
            assert await close_code(client) == 4400

    @pytest.mark.parametrize(
        ("message", "code"),
        [
            ({"type": "dance", "id": "x"}, "unknown_type"),
            ({"type": "subscribe", "id": "x", "topics": ["shelf:1"]}, "unknown_topic"),
            ({"type": "subscribe", "id": "x", "topics": []}, "bad_message"),
            (
                {"type": "subscribe", "id": "x", "topics": [f"product:{n}" for n in range(101)]},
                "too_many_topics",
            ),
            ({"type": "auth", "id": "x", "token": "t"}, "unavailable"),
        ],
    )
    async def test_a_wrong_request_is_an_error_and_the_connection_goes_on(
        self, gate: Gate, message: dict[str, Any], code: str
    ) -> None:
        async with gate.connect() as client:
            await client.send(text(**message))
            error = await next_message(client, "error")
            assert (error["code"], error["id"]) == (code, "x")
            await client.send(text(type="ping", id="p"))
            assert (await next_message(client, "pong"))["id"] == "p"

    @pytest.mark.parametrize("fragments", [1, 3])
    async def test_too_much_is_said_and_1009(self, gate: Gate, fragments: int) -> None:
        async with gate.connect() as client:
            size = 20_000 // fragments
            await client.send(["x" * size] * fragments if fragments > 1 else "x" * size)
            assert (await next_message(client, "error"))["code"] == "too_large"
            assert await close_code(client) == 1009

    async def test_a_megabyte_is_1009_and_not_a_reset(self, gate: Gate) -> None:
        async with gate.connect() as client:
            await client.send("x" * 1_000_000)
            assert await close_code(client) == 1009

    @pytest.mark.parametrize("bad", [b'{"type":"\xff"}', b"\xc3\x28", b"\xed\xa0\x80"])
    async def test_text_that_is_no_utf8_is_1007(self, gate: Gate, bad: bytes) -> None:
        async with gate.raw_websocket() as (reader, writer):
            writer.write(frame(bad))
            await asyncio.wait_for(reader.readuntil(struct.pack("!H", 1007)), 5)

    async def test_a_framing_error_is_1002(self, gate: Gate) -> None:
        async with gate.raw_websocket() as (reader, writer):
            writer.write(b"\x83\x80" + bytes(4))
            await asyncio.wait_for(reader.readuntil(struct.pack("!H", 1002)), 5)

    async def test_fragments_make_one_message(self, gate: Gate) -> None:
        async with gate.connect() as client:
            await client.send(['{"type":', '"ping",', '"id":"f"}'])
            assert (await next_message(client, "pong"))["id"] == "f"

    async def test_each_is_answered_in_its_turn(self, gate: Gate) -> None:
        """A ping between fragments before their message, one behind a message after its answer."""
        async with gate.raw_websocket() as (reader, writer):
            await reader.readuntil(b"welcome")
            writer.write(
                frame(b'{"type":"ping",', fin=False) + frame(b"first", opcode=9)
                + frame(b'"id":"second"}', opcode=0) + frame(b"third", opcode=9)
            )  # fmt: skip
            said = await asyncio.wait_for(reader.readuntil(b"\x8a\x05third"), 5)
        assert said.index(b"\x8a\x05first") < said.index(b'"second"')

    async def test_others_hear_everything_meanwhile(self, gate: Gate) -> None:
        gate.feed.rows[TOPIC] = [stock("A", 1)]
        async with gate.connect(f"/realtime?topics={TOPIC}") as good:
            await next_message(good, "snapshot")
            for bad in ("{", "x" * 50_000):
                async with gate.connect() as client:
                    await client.send(bad)
                    gate.feed.change(TOPIC, stock("A", gate.feed.topics[TOPIC].seq + 1))
                    await close_code(client)
            seen = {(await next_message(good, "delta"))["seq"] for _ in range(2)}
        assert seen == {2, 3}


class TestLimits:
    async def test_too_many_connections_is_4429(self) -> None:
        async with make_gate(connection_limits=ConnectionLimits(max_connections=1)) as gate:
            async with gate.connect() as first:
                async with gate.connect() as second:
                    assert await close_code(second) == 4429
                await next_message(first, "welcome")
            await eventually(lambda: gate.realtime.statistics()["gateway_connections"] == 0)
            async with gate.connect() as third:
                await next_message(third, "welcome")

    async def test_a_flood_is_told_and_then_closed(self) -> None:
        async with make_gate(limits=ClientLimits(messages_per_s=5)) as gate, gate.connect() as client:
            for _ in range(70):
                await client.send(text(type="ping"))
            error = await next_message(client, "error")
            assert error["code"] == "rate_limited"
            assert error["retry_after_ms"] > 0
            assert await close_code(client) == 4429

    @pytest.mark.parametrize("opcode", [9, 10])
    async def test_a_flood_of_control_frames_counts(self, opcode: int) -> None:
        limits = ClientLimits(messages_per_s=5)
        async with make_gate(limits=limits) as gate, gate.raw_websocket() as (reader, writer):
            writer.write(frame(b"", opcode=opcode) * 100)
            await asyncio.wait_for(reader.readuntil(struct.pack("!H", 4429)), 5)

    async def test_each_topic_counts_like_a_message(self) -> None:
        async with make_gate(limits=ClientLimits(messages_per_s=5)) as gate, gate.connect() as client:
            await client.send(text(type="subscribe", id="s", topics=[f"product:{n}" for n in range(60)]))
            error = await next_message(client, "error")
            assert (error["code"], error["id"]) == ("rate_limited", "s")
            # The message itself has taken one of fifty; one comes back in each fifth of a second.
            assert 49 <= int(error["topic"].removeprefix("product:")) < 55
            assert await close_code(client) == 4429

    async def test_a_flooder_is_not_read_any_more(self, gate: Gate) -> None:
        """4400 closes it; whoever goes on sending then is hung up on, and soon."""
        async with gate.raw_websocket() as (reader, writer):
            writer.write(frame(b"{"))
            await asyncio.wait_for(reader.readuntil(struct.pack("!H", 4400)), 5)
            writer.write(frame(b"x" * 100) * 10_000)
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), 4)

    async def test_what_comes_at_once_is_answered_in_order_and_lets_others_in_between(
        self, gate: Gate
    ) -> None:
        async with gate.connect() as other, gate.raw_websocket() as (reader, writer):
            await next_message(other, "welcome")
            writer.write(b"".join(frame(orjson.dumps({"type": "ping", "id": f"p{n}"})) for n in range(3000)))
            await reader.readuntil(b'"p0"')
            await other.send(text(type="ping", id="mine"))
            await next_message(other, "pong")
            ahead = gate.realtime.metrics.messages_received["ping"]
            assert ahead < 3001
            for number in range(1, 3000):
                await asyncio.wait_for(reader.readuntil(b'"p%d"' % number), 5)

    async def test_snapshots_of_too_many_rows(self) -> None:
        rates = Rates({RateKind.ROWS: RateLimit(1, 30)})
        async with make_gate(rates=rates) as gate, gate.connect() as client:
            gate.feed.rows[TOPIC] = [stock(f"P{n}", n + 1) for n in range(50)]
            await client.send(text(type="subscribe", topics=[TOPIC]))
            taken = await next_message(client, "snapshot")
            await client.send(text(type="subscribe", id="s", topics=["product:B"]))
            error = await next_message(client, "error")
            assert (error["code"], error["id"], error["topic"]) == ("rate_limited", "s", "product:B")
            assert 19_000 < error["retry_after_ms"] <= 20_001
            async with gate.connect() as another:  # of the same principal
                await another.send(text(type="subscribe", topics=["product:B"]))
                assert (await next_message(another, "error"))["code"] == "rate_limited"
                await another.send(text(type="subscribe", topics=[TOPIC], resume={TOPIC: position(taken)}))
                await next_message(another, "resumed")  # which costs nothing
                await another.send(text(type="unsubscribe", topics=[TOPIC]))
                await next_message(another, "unsubscribed")
                resume = {"epoch": "another", "seq": 1}  # which would cost a snapshot
                await another.send(text(type="subscribe", topics=[TOPIC], resume={TOPIC: resume}))
                assert (await next_message(another, "error"))["topic"] == TOPIC
                public = {"topics": [TOPIC], "view": "public", "resume": {TOPIC: position(taken)}}
                await another.send(text(type="subscribe", **public))
                assert (await next_message(another, "error"))["code"] == "rate_limited"

    async def test_a_snapshot_that_is_begun_anew_is_free(self) -> None:
        rates = Rates({RateKind.ROWS: RateLimit(1, 60)})
        async with make_gate(rates=rates) as gate, gate.connect() as client:
            gate.feed.rows[TOPIC] = [stock(f"P{n}", n + 1) for n in range(50)]
            await client.send(text(type="subscribe", topics=[TOPIC]))
            await next_message(client, "snapshot")
            for _ in range(3):
                gate.feed.void(TOPIC)
                await next_message(client, "snapshot")
            await client.send(text(type="subscribe", topics=["product:B"]))
            await next_message(client, "snapshot")

    async def test_who_is_rate_limited_hears_when_to_come_back(self) -> None:
        async with make_gate(limits=ClientLimits(messages_per_s=2)) as gate, gate.connect() as client:
            for _ in range(21):
                await client.send(text(type="ping"))
            error = await next_message(client, "error")
            assert error["code"] == "rate_limited"
            assert 0 < error["retry_after_ms"] <= 501

    async def test_topics_that_have_to_be_loaded_at_the_same_time(self) -> None:
        async with make_gate(max_loads=2) as gate, gate.connect() as client, gate.connect() as another:
            gate.feed.gate.clear()
            topics = ["product:A", "product:B", "product:C"]
            await client.send(text(type="subscribe", id="s", topics=topics))
            error = await next_message(client, "error")
            assert (error["code"], error["id"], error["topic"]) == ("rate_limited", "s", "product:C")
            assert error["retry_after_ms"] == 1000
            await another.send(text(type="subscribe", topics=["product:C"]))
            assert (await next_message(another, "error"))["topic"] == "product:C"
            await another.send(text(type="subscribe", topics=["product:B"]))  # it is under way already
            gate.feed.gate.set()
            for _ in topics[:2]:
                await next_message(client, "snapshot")
            await next_message(another, "snapshot")
            await another.send(text(type="subscribe", topics=["product:C"]))
            await next_message(another, "snapshot")

    async def test_a_topic_too_many(self) -> None:
        async with make_gate(limits=ClientLimits(max_topics=1)) as gate, gate.connect() as client:
            await client.send(text(type="subscribe", id="s", topics=["product:A", "product:B"]))
            error = await next_message(client, "error")
            assert (error["code"], error["topic"]) == ("too_many_topics", "product:B")


class TestHeartbeat:
    async def test_it_comes_by_itself_and_says_how_fresh_things_are(self) -> None:
        async with make_gate(heartbeat_s=0.2) as gate, gate.connect() as client:
            heartbeat = await next_message(client, "heartbeat")
        assert heartbeat["stale"] is False
        assert heartbeat["as_of"] == "2023-11-14T22:13:20.000Z"

    async def test_who_connects_while_stale_hears_it_at_once(self, gate: Gate) -> None:
        async with gate.connect() as first:
            await next_message(first, "welcome")
            assert (await next_message(first, "stale"))["since"] == "2023-11-14T22:13:20.000Z"
            async with gate.connect() as second:
                await next_message(second, "stale", timeout_s=1)
                gate.realtime.hub.message(Beat("g", 1_700_000_001_000, 2))
                for client in (first, second):
                    assert (await next_message(client, "fresh"))["as_of"] == "2023-11-14T22:13:21.000Z"


class TestSlowClients:
    async def test_one_that_takes_nothing_is_closed_and_costs_no_more_than_its_items(self) -> None:
        async with make_gate(slow_client_s=0.4) as gate:
            gate.feed.rows[TOPIC] = [stock(f"P{n}", n + 1) for n in range(300)]
            async with gate.raw_websocket(receive_buffer=4096) as (_, writer):
                writer.write(frame(orjson.dumps({"type": "subscribe", "topics": [TOPIC]})))
                async with gate.connect(f"/realtime?topics={TOPIC}") as quick:
                    await next_message(quick, "snapshot")
                    version = 1000
                    while not gate.realtime.metrics.slow_disconnects:
                        version += 300
                        gate.feed.change(TOPIC, *(stock(f"P{n}", version + n) for n in range(300)))
                        await asyncio.sleep(0.02)
                    await client_catches_up(quick, gate)
                assert gate.realtime.metrics.conflated > 0
                await eventually(lambda: gate.realtime.statistics()["gateway_connections"] == 0, timeout_s=10)

    async def test_one_that_only_asks_and_never_reads_is_not_answered_for_ever(self) -> None:
        async with make_gate() as gate, gate.raw_websocket(receive_buffer=4096) as (_, writer):
            names = [f"shelf:{number}" for number in range(100)]  # a hundred errors
            request = frame(orjson.dumps({"type": "subscribe", "id": "x" * 64, "topics": names}))

            def blocked() -> bool:
                writer.write(request * 50)
                return writer.transport.get_write_buffer_size() > 2_000_000

            await eventually(blocked, timeout_s=10)
            await eventually(lambda: len(gate.realtime.stalled) == 1, timeout_s=20)

    async def test_one_that_reads_again_is_answered_to_the_end(self) -> None:
        async with make_gate() as gate, gate.raw_websocket(receive_buffer=4096) as (reader, writer):
            names = [f"shelf:{number}" for number in range(100)]  # a hundred errors
            request = frame(orjson.dumps({"type": "subscribe", "id": "x" * 64, "topics": names}))
            writer.write(request * 250 + frame(orjson.dumps({"type": "ping", "id": "last"})))
            await eventually(lambda: len(gate.realtime.stalled) == 1, timeout_s=20)
            tail = b""
            async with asyncio.timeout(30):
                while b'"last"' not in tail:
                    tail = tail[-100:] + await reader.read(65536)
            assert gate.realtime.metrics.frames_sent["error"] == 25_000


async def client_catches_up(client: Any, gate: Gate) -> None:
    while (await next_message(client, "delta"))["seq"] < gate.feed.topics[TOPIC].seq:
        pass


class TestDrain:
    async def test_everybody_is_told_a_moment_of_its_own_and_closed_1012(self, gate: Gate) -> None:
        clients = [await gate.connect() for _ in range(8)]
        for client in clients:
            await next_message(client, "welcome")
        drain = asyncio.create_task(gate.realtime.drain(0.4))
        after = [(await next_message(client, "reconnect"))["after_ms"] for client in clients]
        assert sorted(int(ms / 45) for ms in after) == list(range(8))  # nine tenths of the time, in slices
        assert [await close_code(client) for client in clients] == [1012] * 8
        await drain


class TestCounting:
    async def test_each_message_counts_as_what_it_is(self, gate: Gate) -> None:
        async with gate.connect() as client:
            await client.send(text(type="unsubscribe", topics=["product:A"]))
            await next_message(client, "unsubscribed")
            await client.send(text(type="ping"))
            await next_message(client, "pong")
        sent = gate.realtime.metrics.frames_sent
        assert (sent["welcome"], sent["unsubscribed"], sent["pong"], sent["error"]) == (1, 1, 1, 0)


class TestClosing:
    async def test_a_client_may_close(self, gate: Gate) -> None:
        async with gate.connect(f"/realtime?topics={TOPIC}") as client:
            await next_message(client, "snapshot")
        assert client.close_code == 1000
        await eventually(lambda: gate.feed.subscribed == set())

    async def test_one_that_vanishes_is_forgotten(self, gate: Gate) -> None:
        client = await gate.connect(f"/realtime?topics={TOPIC}")
        await next_message(client, "snapshot")
        client.transport.abort()
        await eventually(lambda: gate.realtime.statistics()["gateway_subscriptions"] == 0)

    async def test_who_comes_next_hears_nothing_of_what_they_followed(self, gate: Gate) -> None:
        """New connections get the descriptors of those that went, while broadcasts go on."""
        other, version = "location:L2", 1
        for topic in (TOPIC, other):
            gate.feed.rows[topic] = [stock("A", 1)]

        def change(topic: str) -> None:
            nonlocal version
            version += 1
            gate.feed.change(topic, stock("A", version))

        for _ in range(10):
            going = [await gate.connect(f"/realtime?topics={TOPIC}") for _ in range(4)]
            for client in going:
                await next_message(client, "snapshot")
            for _ in range(2):  # by the second one they are written to directly
                change(TOPIC)
                for client in going:
                    await next_message(client, "delta")
            for client in going:
                client.transport.abort()
            change(TOPIC)
            coming = [await gate.connect(f"/realtime?topics={other}") for _ in range(4)]
            change(TOPIC)
            for client in coming:
                assert (await next_message(client, "snapshot"))["topic"] == other
            change(TOPIC)
            change(other)
            for client in coming:
                assert (await next_message(client, "delta"))["topic"] == other
                client.transport.abort()
