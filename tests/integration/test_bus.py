"""Both buses, held to one suite; then what only Redis can do to a link."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import hiredis
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from listeners.backoff import Backoff
from listeners.bus import Bus
from listeners.embedded import ValkeyServer, embedded_valkey
from listeners.errors import BusUnavailable, Refused
from listeners.keys import Keys
from listeners.memory_bus import MemoryBroker, MemoryBus
from listeners.redis_bus import RedisBus
from protocol.envelope import Beat, Changed, Envelope, NewGeneration, Voided, decode_envelope
from protocol.items import Item
from tests.support.waiting import eventually

TOPIC = "location:L1"
OTHER = "location:L2"
CONFIRMATION = b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%s\r\n:1\r\n"


@dataclass
class Heard:
    """A listener that writes down what it hears."""

    messages: list[Envelope] = field(default_factory=list)
    signals: list[str] = field(default_factory=list)

    def message(self, envelope: Envelope) -> None:
        self.messages.append(envelope)

    def lost(self) -> None:
        self.signals.append("lost")

    def restored(self) -> None:
        self.signals.append("restored")


@asynccontextmanager
async def running(bus: Bus, heard: Heard) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(bus.run(heard))
        try:
            yield
        finally:
            task.cancel()


class Twin:
    """One kind of bus, and its server as the test sees it."""

    def bus(self) -> Bus:
        raise NotImplementedError

    async def publish(self, topic: str | None, text: str) -> None:
        """To the topic's channel, or to the beacon."""
        raise NotImplementedError

    async def cut(self) -> None:
        """Every bus loses its link, and finds the server again."""
        raise NotImplementedError


class MemoryTwin(Twin):
    def __init__(self) -> None:
        self.broker = MemoryBroker()

    def bus(self) -> Bus:
        return MemoryBus(self.broker)

    async def publish(self, topic: str | None, text: str) -> None:
        self.broker.publish(decode_envelope(text.encode()))

    async def cut(self) -> None:
        losses = sum(bus.statistics().losses for bus in self.broker.buses)
        self.broker.cut()
        await eventually(lambda: sum(bus.statistics().losses for bus in self.broker.buses) > losses)
        self.broker.mend()


class RedisTwin(Twin):
    def __init__(self, url: str, keys: Keys, redis: Redis) -> None:
        self.url, self.keys, self.redis = url, keys, redis

    def bus(self) -> Bus:
        return RedisBus(self.url, self.keys, backoff=Backoff(0.01, 0.05))

    async def publish(self, topic: str | None, text: str) -> None:
        await self.redis.publish(self.keys.channel(topic) if topic else self.keys.beacon(0), text)

    async def cut(self) -> None:
        assert await self.redis.client_kill_filter(_type="pubsub")


@pytest.fixture(params=["memory", "redis"])
def twin(request: pytest.FixtureRequest) -> Twin:
    if request.param == "memory":
        return MemoryTwin()
    return RedisTwin(
        request.getfixturevalue("redis_url"),
        Keys(request.getfixturevalue("redis_prefix")),
        request.getfixturevalue("redis"),
    )


def change(topic: str, seq: int) -> str:
    return f"D {topic} e1 {seq} 1000\nstock:A:L1 {seq} L {{}}"


def changed(topic: str, seq: int) -> Changed:
    return Changed(topic, "e1", seq, 1000, (Item("stock:A:L1", seq, False, b"{}"),))


class TestSubscribing:
    async def test_what_is_published_after_the_confirmation_arrives_in_order(self, twin: Twin) -> None:
        bus, heard = twin.bus(), Heard()
        async with running(bus, heard):
            bus.subscribe_nowait(TOPIC)
            await bus.wait_subscribed(TOPIC, 2.0)
            for seq in range(1, 51):
                await twin.publish(TOPIC, change(TOPIC, seq))
            await eventually(lambda: len(heard.messages) == 50)
        assert heard.messages == [changed(TOPIC, seq) for seq in range(1, 51)]

    async def test_other_topics_are_not_heard(self, twin: Twin) -> None:
        bus, heard = twin.bus(), Heard()
        async with running(bus, heard):
            bus.subscribe_nowait(TOPIC)
            await bus.wait_subscribed(TOPIC, 2.0)
            await twin.publish(OTHER, f"V {OTHER}")
            await twin.publish(TOPIC, f"V {TOPIC}")
            await eventually(lambda: heard.messages)
        assert heard.messages == [Voided(TOPIC)]

    async def test_beacons_are_heard_without_subscribing(self, twin: Twin) -> None:
        bus, heard = twin.bus(), Heard()
        async with running(bus, heard):
            await eventually(lambda: heard.signals)
            await twin.publish(None, "C g1 1700000000000 7")
            await twin.publish(None, "G g2")
            await eventually(lambda: len(heard.messages) == 2)
        assert heard.messages == [Beat("g1", 1_700_000_000_000, 7), NewGeneration("g2")]

    async def test_subscribing_twice_is_harmless(self, twin: Twin) -> None:
        bus, heard = twin.bus(), Heard()
        async with running(bus, heard):
            for _ in range(2):
                bus.subscribe_nowait(TOPIC)
                await bus.wait_subscribed(TOPIC, 2.0)
            await twin.publish(TOPIC, f"V {TOPIC}")
            await twin.publish(None, "G g2")
            await eventually(lambda: NewGeneration("g2") in heard.messages)
        assert heard.messages == [Voided(TOPIC), NewGeneration("g2")]

    async def test_many_topics_at_once(self, twin: Twin) -> None:
        bus, heard = twin.bus(), Heard()
        topics = [f"product:{n}" for n in range(2500)]
        async with running(bus, heard):
            for topic in topics:
                bus.subscribe_nowait(topic)
            for topic in topics:
                await bus.wait_subscribed(topic, 5.0)
            await twin.publish(topics[-1], f"V {topics[-1]}")
            await eventually(lambda: heard.messages == [Voided(topics[-1])])
            assert bus.statistics().confirmed == 2501

    async def test_unsubscribed_topics_fall_silent(self, twin: Twin) -> None:
        bus, heard = twin.bus(), Heard()
        async with running(bus, heard):
            bus.subscribe_nowait(TOPIC)
            await bus.wait_subscribed(TOPIC, 2.0)
            bus.unsubscribe_nowait(TOPIC)
            bus.subscribe_nowait(OTHER)
            await bus.wait_subscribed(OTHER, 2.0)
            await twin.publish(TOPIC, f"V {TOPIC}")
            await twin.publish(OTHER, f"V {OTHER}")
            await eventually(lambda: heard.messages)
        assert heard.messages == [Voided(OTHER)]

    @pytest.mark.parametrize("calls", ["us", "usus", "susus", "uusss"])
    async def test_the_outcome_of_one_turn_counts_when_it_is_to_subscribe(
        self, twin: Twin, calls: str
    ) -> None:
        bus, heard = twin.bus(), Heard()
        async with running(bus, heard):
            bus.subscribe_nowait(TOPIC)
            await bus.wait_subscribed(TOPIC, 2.0)
            for call in calls:
                (bus.subscribe_nowait if call == "s" else bus.unsubscribe_nowait)(TOPIC)
            await bus.wait_subscribed(TOPIC, 2.0)
            await twin.publish(TOPIC, f"V {TOPIC}")
            await eventually(lambda: heard.messages == [Voided(TOPIC)])

    async def test_calls_in_turns_of_their_own_end_in_the_last_one(self, twin: Twin) -> None:
        bus, heard = twin.bus(), Heard()
        async with running(bus, heard):
            for _ in range(20):
                bus.subscribe_nowait(TOPIC)
                await asyncio.sleep(0)
                bus.unsubscribe_nowait(TOPIC)
                await asyncio.sleep(0)
            bus.subscribe_nowait(TOPIC)
            await bus.wait_subscribed(TOPIC, 2.0)
            await twin.publish(TOPIC, f"V {TOPIC}")
            await eventually(lambda: heard.messages == [Voided(TOPIC)])
            assert heard.signals == ["restored"]


class TestWaitSubscribed:
    async def test_not_wanted(self, twin: Twin) -> None:
        with pytest.raises(BusUnavailable, match="is not subscribed to"):
            await twin.bus().wait_subscribed(TOPIC, 1.0)

    async def test_times_out_while_the_bus_does_not_run(self, twin: Twin) -> None:
        bus = twin.bus()
        bus.subscribe_nowait(TOPIC)
        with pytest.raises(BusUnavailable, match="did not confirm"):
            await bus.wait_subscribed(TOPIC, 0.01)

    async def test_ends_when_the_topic_is_left(self, twin: Twin) -> None:
        bus = twin.bus()
        bus.subscribe_nowait(TOPIC)
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(_failure(bus))
            await asyncio.sleep(0)
            bus.unsubscribe_nowait(TOPIC)
        assert "was unsubscribed" in waiting.result()

    async def test_before_the_bus_runs(self, twin: Twin) -> None:
        bus, heard = twin.bus(), Heard()
        bus.subscribe_nowait(TOPIC)
        async with asyncio.TaskGroup() as tasks, running(bus, heard):
            tasks.create_task(bus.wait_subscribed(TOPIC, 2.0))
            await bus.wait_subscribed(TOPIC, 2.0)


async def _failure(bus: Bus) -> str:
    with pytest.raises(BusUnavailable) as caught:
        await bus.wait_subscribed(TOPIC, 5.0)
    return str(caught.value)


class TestLosingTheLink:
    async def test_lost_then_restored_then_heard_again(self, twin: Twin) -> None:
        bus, heard = twin.bus(), Heard()
        async with running(bus, heard):
            bus.subscribe_nowait(TOPIC)
            await bus.wait_subscribed(TOPIC, 2.0)
            assert bus.statistics().connected
            for n in range(1, 4):
                await twin.cut()
                await eventually(partial(_equal, heard.signals, ["restored", *["lost", "restored"] * n]))
                assert bus.statistics().confirmed == 2
                await twin.publish(TOPIC, f"V {TOPIC}")
                await eventually(partial(_equal, heard.messages, [Voided(TOPIC)] * n))
            assert bus.statistics().losses == 3

    async def test_a_wait_outlives_the_link(self, twin: Twin) -> None:
        bus, heard = twin.bus(), Heard()
        async with running(bus, heard):
            await eventually(lambda: heard.signals)
            await twin.cut()
            bus.subscribe_nowait(TOPIC)
            await bus.wait_subscribed(TOPIC, 5.0)
            await eventually(lambda: heard.signals == ["restored", "lost", "restored"])

    async def test_stopping_is_no_loss(self, twin: Twin) -> None:
        bus, heard = twin.bus(), Heard()
        async with running(bus, heard):
            await eventually(lambda: heard.signals)
        assert heard.signals == ["restored"]
        assert bus.statistics().confirmed == 0

    async def test_a_failing_listener_ends_the_bus(self, twin: Twin) -> None:
        class Failing(Heard):
            def message(self, envelope: Envelope) -> None:
                raise ZeroDivisionError

        bus, heard = twin.bus(), Failing()
        async with asyncio.TaskGroup() as tasks:
            ended = tasks.create_task(_ending(bus, heard))
            await eventually(lambda: heard.signals)
            await twin.publish(None, "G g2")
        assert ended.result() is ZeroDivisionError


def _equal(heard: Sequence[object], expected: Sequence[object]) -> bool:
    return heard == expected


async def _ending(bus: Bus, heard: Heard) -> type[BaseException]:
    with pytest.raises(ZeroDivisionError) as caught:
        await bus.run(heard)
    return caught.type


def test_a_slow_listener_in_memory_loses_its_link() -> None:
    async def overrun() -> list[str]:
        bus, heard = MemoryBus(), Heard()
        async with running(bus, heard):
            await eventually(lambda: heard.signals)
            for number in range(10_001):
                bus.broker.publish(Beat("g", 1, number))
            await eventually(lambda: len(heard.signals) == 3)
        assert not heard.messages
        return heard.signals

    assert asyncio.run(overrun()) == ["restored", "lost", "restored"]


class TestRedisLink:
    async def test_a_malformed_message_is_counted_and_dropped(
        self, redis_url: str, redis_prefix: str, redis: Redis
    ) -> None:
        twin = RedisTwin(redis_url, Keys(redis_prefix), redis)
        bus, heard = twin.bus(), Heard()
        async with running(bus, heard):
            await eventually(lambda: heard.signals)
            await twin.publish(None, "X unheard of")
            await twin.publish(None, "G g2")
            await eventually(lambda: heard.messages)
            statistics = bus.statistics()
        assert heard.messages == [NewGeneration("g2")]
        assert (statistics.messages, statistics.malformed) == (2, 1)

    async def test_a_confirmation_nobody_asked_for_means_there_was_another_link(self) -> None:
        links = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal links
            links += 1
            commands = hiredis.Reader()
            while data := await reader.read(65_536):
                commands.feed(data)
                while (command := commands.gets()) is not False:
                    if command[0] == b"SUBSCRIBE":
                        names = command[1:] + ([b"unheard"] if links == 1 else [])
                        writer.writelines(CONFIRMATION % (len(name), name) for name in names)
                    elif command[0] != b"PING":
                        writer.write(b"+OK\r\n")
            writer.close()

        heard = Heard()
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            bus = RedisBus(f"redis://127.0.0.1:{port}", Keys(), backoff=Backoff(0.01, 0.02))
            with capture_logs() as logs:
                async with running(bus, heard):
                    await eventually(lambda: heard.signals == ["restored", "lost", "restored"])
        assert "unexpected confirmation: subscribed unheard" in logs[0]["why"]

    async def test_it_can_be_stopped_while_its_links_fail(self) -> None:
        links = 0

        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal links
            links += 1
            commands = hiredis.Reader()
            while data := await reader.read(65_536):
                commands.feed(data)
                while (command := commands.gets()) is not False:
                    writer.write(b"-ERR not here\r\n" if command[0] == b"SUBSCRIBE" else b"+OK\r\n")
            writer.close()

        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            bus = RedisBus(f"redis://127.0.0.1:{port}", Keys(), backoff=Backoff(0.0001, 0.0001))
            for turns in range(60):
                task = asyncio.create_task(bus.run(Heard()))
                seen = links
                await eventually(lambda seen=seen: links > seen)  # type: ignore[misc]  # a default argument
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task], timeout=2.0)
                assert task.cancelled()

    async def test_a_frozen_server_is_noticed_by_deadline(self, private_valkey: ValkeyServer) -> None:
        bus = RedisBus(private_valkey.url, Keys(), probe_timeout_s=0.2, backoff=Backoff(0.01, 0.05))
        heard = Heard()
        async with running(bus, heard):
            bus.subscribe_nowait(TOPIC)
            await bus.wait_subscribed(TOPIC, 2.0)
            private_valkey.pause()
            await eventually(lambda: heard.signals == ["restored", "lost"], timeout_s=2.0)
            private_valkey.resume()
            await eventually(lambda: heard.signals == ["restored", "lost", "restored"])
            await bus.wait_subscribed(TOPIC, 2.0)

    async def test_a_server_that_is_away_is_waited_for(self, private_valkey: ValkeyServer) -> None:
        bus = RedisBus(private_valkey.url, Keys(), probe_timeout_s=0.5, backoff=Backoff(0.01, 0.05))
        heard = Heard()
        async with running(bus, heard):
            await eventually(lambda: heard.signals)
            await private_valkey.kill()
            await eventually(lambda: heard.signals == ["restored", "lost"])
            await private_valkey.restart()
            await eventually(lambda: heard.signals == ["restored", "lost", "restored"])

    async def test_a_server_that_refuses_ends_the_bus(self, tmp_path: Path) -> None:
        async with embedded_valkey(tmp_path, args=("--requirepass", "right")) as server:
            url = server.url.replace("redis://", "redis://:wrong@")
            with pytest.raises(Refused, match="Redis refuses"):
                await RedisBus(url, Keys()).run(Heard())
