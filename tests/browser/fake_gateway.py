"""A small gateway that speaks the contract from memory, with what tests need to misbehave at will."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from protocol.items import item_key
from protocol.timestamps import format_time
from tests.browser.shop import public_items

__all__ = ["CONTENT_SECURITY_POLICY", "FakeConnection", "FakeGateway", "FakeTopic"]

JSON = dict[str, Any]

STATIC: Final = Path(__file__).parents[2] / "gateway" / "static"
TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}
# As strict as a page can have it: nothing inline, nothing from elsewhere.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def _now() -> str:
    return format_time(datetime.now(UTC))


@dataclass
class FakeTopic:
    epoch: str = "e1"
    seq: int = 0
    items: dict[str, JSON] = field(default_factory=dict)
    log: list[tuple[int, list[JSON]]] = field(default_factory=list)

    def apply(self, items: Iterable[JSON]) -> list[JSON]:
        changed = list(items)
        self.seq += 1
        for item in changed:
            if item.get("deleted"):
                self.items.pop(item_key(item), None)
            else:
                self.items[item_key(item)] = item
        self.log.append((self.seq, changed))
        return changed


class FakeConnection:
    """One client: what it has sent, and what it is subscribed to."""

    def __init__(self, gateway: "FakeGateway", socket: ServerConnection) -> None:
        self.gateway = gateway
        self.socket = socket
        self.views: dict[str, str] = {}
        self.muted = False
        assert socket.request is not None
        self.subprotocols = [p.strip() for p in socket.request.headers["Sec-WebSocket-Protocol"].split(",")]

    async def send(self, message: JSON) -> None:
        """To a connection that is gone, nothing: its client will be back for all of it."""
        if not self.muted:
            with suppress(ConnectionClosed):
                await self.socket.send(json.dumps(message))

    def abort(self) -> None:
        """The connection is lost: no closing handshake, the client sees 1006."""
        self.socket.transport.abort()

    async def run(self) -> None:
        await self.send(
            {
                "type": "welcome",
                "protocol": "inventory.v1",
                "session": f"session-{self.gateway.handshakes}",
                "principal": "anonymous",
                "heartbeat_s": self.gateway.heartbeat_s,
                "time": _now(),
                "limits": self.gateway.limits,
            }
        )
        if self.gateway.stale_since:
            await self.send({"type": "stale", "since": self.gateway.stale_since})
        async for text in self.socket:
            assert isinstance(text, str), "a client sends text frames"
            if len(text.encode()) > self.gateway.limits["max_message_bytes"]:
                await self.socket.close(1009)
                return
            message = json.loads(text)
            self.gateway.received.append(message)
            if not self.muted:
                await self._answer(message)

    async def _answer(self, message: JSON) -> None:
        match message["type"]:
            case "ping":
                await self.send({"type": "pong", "id": message["id"], "time": _now()})
            case "auth":
                answer = {"type": "authenticated", "principal": "somebody", "expires_at": _now()}
                await self.send(answer | {"id": message["id"]})
            case "subscribe" if len(message["topics"]) > 100:
                await self.send(
                    {"type": "error", "id": message["id"], "code": "too_many_topics", "message": "100"}
                )
            case "subscribe":
                for topic in message["topics"]:
                    async with self.gateway.turn:
                        await self._subscribe(topic, message)
            case "unsubscribe":
                for topic in message["topics"]:
                    self.views.pop(topic, None)
                    await self.send({"type": "unsubscribed", "id": message["id"], "topic": topic})

    async def _subscribe(self, name: str, message: JSON) -> None:
        self.views.pop(name, None)
        refusals = self.gateway.refusals.get(name)
        if refusals:
            await self.send({"type": "error", "id": message["id"], "topic": name} | refusals.pop(0))
            return
        view = message.get("view", self.gateway.default_view)
        topic = self.gateway.topic(name)
        position = message.get("resume", {}).get(name)
        if position and view == "exact" and position["epoch"] == topic.epoch:
            await self.send({"type": "resumed", "id": message["id"], "topic": name} | position)
            for seq, items in topic.log:
                if seq > position["seq"]:
                    await self.delta(name, topic, seq, items)
        else:
            await self.snapshot(name, view, message["id"])
        self.views[name] = view

    async def snapshot(self, name: str, view: str, request: str | None = None) -> None:
        topic, size = self.gateway.topic(name), self.gateway.part_items
        items = list(topic.items.values()) if view == "exact" else public_items(name, topic.items.values())
        parts = [items[i : i + size] for i in range(0, len(items), size)] or [[]]
        head: JSON = {"type": "snapshot", "topic": name, "epoch": topic.epoch, "seq": topic.seq}
        if request is not None:
            head["id"] = request
        for number, part in enumerate(parts, 1):
            if number > self.gateway.parts_before_silence:
                return
            await self.send(head | {"part": number, "last": number == len(parts), "items": part})

    async def delta(self, name: str, topic: FakeTopic, seq: int, items: list[JSON]) -> None:
        await self.send({"type": "delta", "topic": name, "epoch": topic.epoch, "seq": seq, "items": items})


class FakeGateway:
    """Serves the static files of the page and `/realtime` on one port of its own."""

    def __init__(self) -> None:
        self.topics: dict[str, FakeTopic] = {}
        self.connections: list[FakeConnection] = []
        self.received: list[JSON] = []
        self.handshakes = 0
        self.heartbeat_s: float = 20
        self.limits = {"max_message_bytes": 16_384, "max_topics": 500}
        self.default_view = "exact"
        self.part_items = 250
        self.parts_before_silence = 1_000_000  # a snapshot is cut off after so many parts
        self.refusals: dict[str, list[JSON]] = {}  # topic -> the errors that answer its next subscriptions
        self.stale_since: str | None = None
        self.page: JSON | None = None
        self.greet: Callable[[FakeConnection], Awaitable[bool]] | None = None  # False: turned away
        self.turn = asyncio.Lock()  # no change slips in between a snapshot and the subscription it begins
        self._server: Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    async def start(self) -> None:
        """Listens; the second time on the same port as before."""
        self._server = await serve(
            self._handle,
            "127.0.0.1",
            self.port,
            process_request=self._http,
            subprotocols=[Subprotocol("inventory.v1")],
            compression=None,
            ping_interval=None,
            close_timeout=1,
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        """As if killed: every connection is lost and the port is closed."""
        if self._server is not None:
            self.abort()
            self._server.close(close_connections=False)
            await self._server.wait_closed()
            self._server = None

    def abort(self) -> None:
        for connection in list(self.connections):
            connection.abort()

    async def close(self, code: int) -> None:
        for connection in list(self.connections):
            await connection.socket.close(code)

    def topic(self, name: str) -> FakeTopic:
        return self.topics.setdefault(name, FakeTopic())

    def hold(self, name: str, *items: JSON) -> None:
        """Gives a topic these items and no others; nobody hears of it."""
        self.topic(name).items = {item_key(item): item for item in items}

    def asked(self, kind: str) -> list[JSON]:
        return [message for message in self.received if message["type"] == kind]

    async def send(self, message: JSON) -> None:
        for connection in list(self.connections):
            await connection.send(message)

    async def publish(self, name: str, *items: JSON) -> None:
        """A change of one topic, to everybody who is subscribed to it."""
        async with self.turn:
            topic = self.topic(name)
            changed = topic.apply(items)
            for connection in list(self.connections):
                view = connection.views.get(name)
                if view == "exact":
                    await connection.delta(name, topic, topic.seq, changed)
                elif view == "public":
                    visible = public_items(name, topic.items.values())
                    await connection.delta(name, topic, topic.seq, visible)

    async def change(self, *items: JSON) -> None:
        """A change of stock or product items, in every topic that holds them."""
        for item in items:
            names = {f"product:{item['product_id']}"}
            if "location_id" in item:
                names.add(f"location:{item['location_id']}")
            else:
                key = item_key(item)
                names |= {name for name, topic in self.topics.items() if key in topic.items}
            for name in names & self.topics.keys():
                await self.publish(name, item)

    async def new_epoch(self, name: str, epoch: str, items: Iterable[JSON]) -> None:
        async with self.turn:
            self.topics[name] = FakeTopic(epoch, 0, {item_key(item): item for item in items})
            for connection in list(self.connections):
                if name in connection.views:
                    await connection.snapshot(name, connection.views[name])

    async def _handle(self, socket: ServerConnection) -> None:
        self.handshakes += 1
        connection = FakeConnection(self, socket)
        self.connections.append(connection)
        try:
            if self.greet is None or await self.greet(connection):
                await connection.run()
        except ConnectionClosed:
            pass  # the end of every connection here
        finally:
            self.connections.remove(connection)

    def _http(self, _connection: ServerConnection, request: Request) -> Response | None:
        path = request.path.partition("?")[0]
        if path == "/realtime":
            return None
        if path == "/page.json":
            if self.page is None:
                return _response(HTTPStatus.NOT_FOUND, b"", "text/plain")
            return _response(HTTPStatus.OK, json.dumps(self.page).encode(), "application/json")
        file = STATIC / (path.removeprefix("/") or "index.html")
        if file.parent == STATIC and file.is_file():
            return _response(HTTPStatus.OK, file.read_bytes(), TYPES.get(file.suffix, "text/plain"))
        if path == "/elsewhere":  # a page of another site, which has its own policy
            return _response(HTTPStatus.OK, b"<!doctype html><title>a shop</title>", "text/html", policy=None)
        if path == "/blank":
            return _response(HTTPStatus.OK, b"<!doctype html><title>blank</title>", "text/html")
        return _response(HTTPStatus.NOT_FOUND, b"not here", "text/plain")


def _response(
    status: HTTPStatus, body: bytes, media_type: str, *, policy: str | None = CONTENT_SECURITY_POLICY
) -> Response:
    headers = Headers(
        {
            "Content-Type": f"{media_type}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Access-Control-Allow-Origin": "*",
            "Connection": "close",
        }
    )
    if policy is not None:
        headers["Content-Security-Policy"] = policy
    return Response(status, status.phrase, headers, body)


async def _main() -> None:
    """Serves the sample shop for a person to look at: `python -m tests.browser.fake_gateway`."""
    from tests.browser.shop import fill, sales

    gateway = FakeGateway()
    fill(gateway)
    await gateway.start()
    print(gateway.url, flush=True)
    await sales(gateway)


if __name__ == "__main__":
    asyncio.run(_main())
