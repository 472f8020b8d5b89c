"""`tail` against a gateway that follows a script, on a real socket."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import orjson
import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from gateway.commands import run_until
from gateway.commands.following import Following
from gateway.commands.tail import _follow, _own_url
from gateway.config import Address, Settings
from gateway.errors import CommandFailed, SettingsError
from tests.support.ports import free_port
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

Script = Callable[[ServerConnection, list[Any]], Awaitable[None]]

WELCOME = {"type": "welcome", "protocol": "inventory.v1", "heartbeat_s": 20}
SNAPSHOT = {
    "type": "snapshot",
    "topic": "product:A",
    "epoch": "e",
    "seq": 3,
    "part": 1,
    "last": True,
    "items": [],
}


async def say(connection: ServerConnection, *messages: dict[str, Any]) -> None:
    for message in messages:
        await connection.send(orjson.dumps(message).decode())


class Gateway:
    """One script for each connection, in turn; the last one goes for all that follow."""

    def __init__(self, *scripts: Script, refuse: list[HTTPStatus] | None = None) -> None:
        self.requests: list[Any] = []
        self.offered: list[str | None] = []
        self.presented: list[str | None] = []
        self.port = 0
        self._scripts = list(scripts)
        self._refuse = refuse or []

    async def handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.offered.append(connection.request.headers.get("Sec-WebSocket-Protocol"))
        self.presented.append(connection.request.headers.get("Authorization"))
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        await say(connection, WELCOME)
        self.requests.append(orjson.loads(await connection.recv()))
        await script(connection, self.requests)

    def process_request(self, connection: ServerConnection, _: Request) -> Response | None:
        return connection.respond(self._refuse.pop(0), "no\n") if self._refuse else None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/realtime"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Gateway"]:
        server: Server
        async with serve(
            self.handle, "127.0.0.1", self.port, process_request=self.process_request, subprotocols=None
        ) as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            yield self


class Tail:
    """Runs `tail` in the background; what it wrote is in `messages`."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def write(self, message: str) -> None:
        self.messages.append(orjson.loads(message))

    @property
    def types(self) -> list[str]:
        return [message["type"] for message in self.messages]

    @asynccontextmanager
    async def running(self, url: str, *topics: str, token: str | None = None) -> AsyncIterator[None]:
        stop = asyncio.Event()
        following = Following(topics or ("product:A",))
        work = _follow(url, following, self.write, token=token, random=lambda: 0.999)
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(run_until(stop, work))
            try:
                yield
            finally:
                stop.set()


async def stay(connection: ServerConnection, _: list[Any]) -> None:
    await say(connection, SNAPSHOT)
    await connection.wait_closed()


async def drop(connection: ServerConnection, _: list[Any]) -> None:
    await say(connection, SNAPSHOT)
    connection.transport.abort()


class TestPrinting:
    async def test_everything_that_arrives(self) -> None:
        tail = Tail()
        async with Gateway(stay).serving() as gateway, tail.running(gateway.url):
            await eventually(lambda: tail.types == ["welcome", "snapshot"])
            assert gateway.requests == [{"type": "subscribe", "topics": ["product:A"]}]
            assert gateway.offered == ["inventory.v1"]
            assert gateway.presented == [None]

    async def test_a_token_is_presented_each_time(self) -> None:
        tail = Tail()
        async with Gateway(drop, stay).serving() as gateway, tail.running(gateway.url, token="a.b.c"):
            await eventually(lambda: gateway.presented == ["Bearer a.b.c"] * 2)
            assert "a.b.c" not in str(tail.messages)


class TestReconnecting:
    async def test_after_a_lost_connection_from_where_it_was(self) -> None:
        tail = Tail()
        async with Gateway(drop, stay).serving() as gateway, tail.running(gateway.url):
            await eventually(lambda: len(gateway.requests) == 2)
            assert gateway.requests[1]["resume"] == {"product:A": {"epoch": "e", "seq": 3}}

    async def test_when_the_server_asks_for_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        async def send_away(connection: ServerConnection, _: list[Any]) -> None:
            await say(connection, SNAPSHOT, {"type": "reconnect", "after_ms": 50})
            await connection.wait_closed()
            assert connection.close_code == 1000

        tail = Tail()
        async with Gateway(send_away, stay).serving() as gateway, tail.running(gateway.url):
            await eventually(lambda: len(gateway.requests) == 2)
        assert "asked to reconnect; again in 0.1 s" in capsys.readouterr().err

    @pytest.mark.parametrize("code", [1012, 1013, 4429, 1011])
    async def test_after_a_close_that_advises_it(self, code: int, capsys: pytest.CaptureFixture[str]) -> None:
        async def close(connection: ServerConnection, _: list[Any]) -> None:
            await connection.close(code)

        tail = Tail()
        async with Gateway(close, stay).serving() as gateway, tail.running(gateway.url):
            await eventually(lambda: len(gateway.requests) == 2)
        assert f"closed with {code}" in capsys.readouterr().err

    async def test_after_silence(self) -> None:
        async def silent(connection: ServerConnection, _: list[Any]) -> None:
            await say(connection, {**WELCOME, "heartbeat_s": 0.1})
            await connection.wait_closed()

        tail = Tail()
        async with Gateway(silent, stay).serving() as gateway, tail.running(gateway.url):
            await eventually(lambda: len(gateway.requests) == 2)

    async def test_while_the_server_is_away_or_busy(self, capsys: pytest.CaptureFixture[str]) -> None:
        gateway, tail = Gateway(drop, stay), Tail()
        async with gateway.serving(), tail.running(gateway.url):
            await eventually(lambda: len(gateway.requests) == 1)
            gateway._refuse.append(HTTPStatus.SERVICE_UNAVAILABLE)
            await eventually(lambda: len(gateway.requests) == 2)
        assert "HTTP 503" in capsys.readouterr().err

    async def test_a_topic_that_is_not_available_yet(self) -> None:
        async def later(connection: ServerConnection, requests: list[Any]) -> None:
            error = {"type": "error", "topic": "product:A", "code": "unavailable", "retry_after_ms": 20}
            await say(connection, error)
            requests.append(orjson.loads(await connection.recv()))
            await stay(connection, requests)

        tail = Tail()
        async with Gateway(later).serving() as gateway, tail.running(gateway.url):
            await eventually(lambda: tail.types == ["welcome", "error", "snapshot"])
            assert gateway.requests[1] == {"type": "subscribe", "topics": ["product:A"]}


class TestGivingUp:
    async def fail(self, url: str) -> str:
        with pytest.raises(CommandFailed) as caught:
            async with asyncio.timeout(10):
                await _follow(url, Following(["product:A"]), print)
        return str(caught.value)

    async def test_nobody_there_at_the_first_try(self) -> None:
        url = f"ws://127.0.0.1:{free_port()}/realtime"
        assert (await self.fail(url)).startswith(f"{url}: ")

    @pytest.mark.parametrize("status", [HTTPStatus.FORBIDDEN, HTTPStatus.SERVICE_UNAVAILABLE])
    async def test_refused_at_the_first_try(self, status: HTTPStatus) -> None:
        async with Gateway(stay, refuse=[status]).serving() as gateway:
            assert str(int(status)) in await self.fail(gateway.url)

    async def test_refused_for_good_later(self) -> None:
        async def drop_and_refuse(connection: ServerConnection, _: list[Any]) -> None:
            gateway._refuse.append(HTTPStatus.FORBIDDEN)
            connection.transport.abort()

        gateway = Gateway(drop_and_refuse)
        async with gateway.serving():
            assert "403" in await self.fail(gateway.url)

    @pytest.mark.parametrize("code", [4400, 4401, 4403, 1002, 1009])
    async def test_a_close_that_advises_it(self, code: int) -> None:
        async def close(connection: ServerConnection, _: list[Any]) -> None:
            await connection.close(code)

        async with Gateway(close).serving() as gateway:
            assert (await self.fail(gateway.url)).startswith(f"closed with {code} (")

    async def test_no_url(self) -> None:
        with pytest.raises(SettingsError, match=r"^--url='http://x': a URL like ws://"):
            await _follow("http://x", Following(["product:A"]), print)


class TestTheDefaultUrl:
    @pytest.mark.parametrize(
        ("listen", "url"),
        [
            (Address("0.0.0.0", 8080), "ws://127.0.0.1:8080/realtime"),
            (Address("::", 80), "ws://[::1]:80/realtime"),
            (Address("10.1.2.3", 80), "ws://10.1.2.3:80/realtime"),
        ],
    )
    def test_is_where_a_gateway_with_the_same_settings_listens(self, listen: Address, url: str) -> None:
        assert _own_url(Settings(listen=listen)) == url

    def test_is_one_of_tls_where_that_gateway_has_a_certificate(self) -> None:
        settings = Settings(listen=Address("127.0.0.1", 80), tls_certificate="/some/file.pem")
        assert _own_url(settings) == "wss://127.0.0.1:80/realtime"


async def test_a_signal_ends_it_well() -> None:
    closed: list[int | None] = []

    async def watch(connection: ServerConnection, requests: list[Any]) -> None:
        await stay(connection, requests)
        closed.append(connection.close_code)

    async with Gateway(watch).serving() as gateway:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "tail", "product:A", "--url", gateway.url, "--view", "exact"),
            stdout=asyncio.subprocess.PIPE,
            env=environment,
        )
        assert process.stdout is not None
        first = await asyncio.wait_for(process.stdout.readline(), 20)
        assert orjson.loads(first)["type"] == "welcome"
        await eventually(lambda: bool(gateway.requests))
        assert gateway.requests[0]["view"] == "exact"
        process.send_signal(signal.SIGTERM)
        await process.stdout.read()
        assert await asyncio.wait_for(process.wait(), 10) == 0
        await eventually(lambda: closed == [1000])


async def test_a_reader_that_has_had_enough_ends_it_well() -> None:
    async def chat(connection: ServerConnection, _: list[Any]) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await say(connection, SNAPSHOT)
                await asyncio.sleep(0)

    async with Gateway(chat).serving() as gateway:
        command = f"set -o pipefail; {sys.executable} -m gateway tail product:A --url {gateway.url} | head -1"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", command),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
        output, errors = await asyncio.wait_for(process.communicate(), 20)
        assert (process.returncode, errors) == (0, b"")
        assert orjson.loads(output)["type"] == "welcome"
