"""Signed requests over HTTP: docs/service-requests.md."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.auth.authority import Authority
from gateway.auth.keys import KeyRing, secret_key
from gateway.auth.service_keys import read_service_keys
from gateway.auth.services import ServiceSignatures
from gateway.auth.tickets import TicketOffice
from gateway.auth.tokens import TokenRules, TokenVerifier
from gateway.http.app import make_client_app
from gateway.http.bodies import MAX_BODY_BYTES, read_body
from gateway.http.credentials import Identification
from gateway.http.limiting import RequestLimits
from gateway.http.problems import EXCEPTION_HANDLERS
from gateway.rates import Rates
from protocol.principal import Principal
from tests.support.credentials import MemoryCredentials
from tests.support.http_shop import PUBLIC, FakeSource, assert_problem, product
from tests.support.signed import KEYS, headers_of, new_key
from tests.support.tokens import NOW, SECRET, claims, hs256

KEY = KEYS["old"]
SERVICES = f"tills:{KEY},tills:vendor=V,tills:permission=inv:read:exact"
AUTHORITY = Authority(TokenVerifier(TokenRules(), KeyRing(secret_key(SECRET)), clock=lambda: NOW))
BEARER = {"Authorization": f"Bearer {hs256(claims())}"}


class Office:
    """The HTTP side of a gateway that knows one service."""

    def __init__(self, anonymous: Principal | None = PUBLIC) -> None:
        self.memory = MemoryCredentials()
        self.signatures = ServiceSignatures(read_service_keys(SERVICES), self.memory, clock=lambda: NOW)
        self.tickets = TicketOffice(self.memory, clock=lambda: NOW)
        self.app = make_client_app(
            FakeSource({"product:A": [product("A")]}),
            principal=anonymous,
            authority=AUTHORITY,
            signatures=self.signatures,
            tickets=self.tickets,
            low_stock=5,
        )

    async def send(self, method: str = "POST", path: str = "/v1/tickets", **options: Any) -> httpx.Response:
        async with to(self.app) as http:
            return await http.request(method, path, **options)

    def refusals(self) -> object:
        return self.signatures.statistics()["gateway_signatures_refused"]


@asynccontextmanager
async def to(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as http:
        yield http


def signed(body: bytes = b"", *keys: str, **more: Any) -> dict[str, str]:
    return headers_of(body, *(keys or (KEY,)), **{"timestamp": int(NOW), **more})


@pytest.mark.parametrize("anonymous", [PUBLIC, None])
@pytest.mark.parametrize("body", [b"", b'{"any": "thing"}', b"\xff" * MAX_BODY_BYTES])
async def test_a_ticket_for_a_service(anonymous: Principal | None, body: bytes) -> None:
    office = Office(anonymous)
    answer = await office.send(content=body, headers=signed(body))
    assert answer.status_code == 201
    principal = await office.tickets.redeem(answer.json()["ticket"])
    assert (principal.name, principal.vendor_id) == ("service:tills", "V")
    assert principal.expires_at == NOW + 3600


async def test_other_schemes_than_bearer_are_the_proxy_s() -> None:
    headers = signed() | {"Authorization": "Basic dTpw"}
    assert (await Office().send(headers=headers)).status_code == 201


class TestRefused:
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    async def test_other_methods_than_post(self, method: str) -> None:
        """Rather than that they are taken for anonymous."""
        office = Office()
        answer = await office.send(method, "/v1/products/A", headers=signed())
        assert answer.status_code == 401
        assert office.refusals() == {"method": 1}

    async def test_a_token_and_a_signature(self) -> None:
        office = Office()
        answer = await office.send(headers=signed() | BEARER)
        assert "not both" in assert_problem(answer, 401, "unauthenticated")["detail"]
        assert office.refusals() == {"ambiguous": 1}
        assert office.memory.asked == 0

    @pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
    async def test_one_header_alone_is_no_token_nor_nobody(self, name: str) -> None:
        office = Office()
        answer = await office.send(headers={name: signed()[name]})
        assert_problem(answer, 401, "unauthenticated")
        assert office.refusals() == {"malformed": 1}

    async def test_a_foreign_key_is_not_told_from_a_foreign_body(self) -> None:
        office = Office()
        answers = [
            await office.send(headers=signed(b"", new_key())),
            await office.send(headers=signed(b"x")),
        ]
        bodies = [assert_problem(answer, 401, "unauthenticated") for answer in answers]
        assert bodies[0] == bodies[1]
        assert "webhook-id" not in str(bodies)

    async def test_a_replay(self) -> None:
        office = Office()
        headers = signed(b"{}")
        assert (await office.send(content=b"{}", headers=headers)).status_code == 201
        for _ in range(2):
            answer = await office.send(content=b"{}", headers=headers)
            assert "every attempt" in assert_problem(answer, 401, "unauthenticated")["detail"]
        assert office.refusals() == {"replay": 2}

    async def test_a_replay_to_another_path(self) -> None:
        """The standard signs no path: an id is used up for all of them."""
        async with to(echoing("/one", "/other")) as http:
            headers = signed(b"x")
            assert (await http.post("/one", content=b"x", headers=headers)).status_code == 200
            assert_problem(await http.post("/other", content=b"x", headers=headers), 401, "unauthenticated")

    async def test_while_redis_is_away(self) -> None:
        office = Office()
        office.memory.away = True
        answer = await office.send(headers=signed())
        assert_problem(answer, 503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1

    async def test_where_there_are_no_services(self) -> None:
        app = make_client_app(FakeSource({}), principal=PUBLIC, authority=AUTHORITY, low_stock=5)
        async with to(app) as http:
            answer = await http.post("/v1/tickets", headers=signed())
        assert_problem(answer, 401, "unauthenticated")


def echoing(*paths: str) -> Starlette:
    """Routes as others will be that need a body: it comes from read_body(), signed or not."""
    signatures = ServiceSignatures(read_service_keys(SERVICES), MemoryCredentials(), clock=lambda: NOW)
    identify = Identification(PUBLIC, None, signatures, limits=RequestLimits(Rates({})))

    async def echo(request: Request) -> Response:
        principal = await identify(request)
        return Response(await read_body(request) + await read_body(request), headers={"who": principal.name})

    routes = [Route(path, echo, methods=["POST"]) for path in paths]
    return Starlette(routes=routes, exception_handlers=EXCEPTION_HANDLERS)


async def dripping(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 1024):
        yield b"x" * 1024


class TestBodies:
    async def test_too_large_ones_are_not_reckoned_with(self) -> None:
        office = Office()
        body = b"x" * (MAX_BODY_BYTES + 1)
        assert_problem(await office.send(content=body, headers=signed(body)), 413, "too_large")
        assert office.memory.asked == 0

    async def test_nor_waited_for(self) -> None:
        """What comes in chunks has not said how much it will be."""
        taken = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal taken
            while True:
                taken += 1
                yield b"x" * 1024

        office = Office()
        async with to(office.app) as http:
            # httpx reads the whole body for its ASGI transport only as the application asks for it.
            answer = await http.post("/v1/tickets", content=endless(), headers=signed())
        assert_problem(answer, 413, "too_large")
        assert taken <= MAX_BODY_BYTES // 1024 + 2

    async def test_a_later_reader_gets_the_same_bytes(self) -> None:
        async with to(echoing("/")) as http:
            answer = await http.post("/", content=dripping(4096), headers=signed(b"x" * 4096))
            assert (answer.content, answer.headers["who"]) == (b"x" * 8192, "service:tills")
            answer = await http.post("/", content=b"y")
            assert (answer.content, answer.headers["who"]) == (b"yy", "anonymous")

    async def test_one_that_does_not_come(self) -> None:
        async def handler(request: Request) -> Response:
            return Response(await read_body(request, timeout_s=0.01))

        async def never() -> AsyncIterator[bytes]:
            yield b"x"
            await asyncio.Event().wait()

        app = Starlette(routes=[Route("/", handler, methods=["POST"])], exception_handlers=EXCEPTION_HANDLERS)
        async with to(app) as http:
            answer = await http.post("/", content=never())
        assert_problem(answer, 408, "bad_message")
        assert answer.headers["connection"] == "close"

    async def test_a_client_that_leaves_is_no_failure_of_ours(self) -> None:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(name.encode(), value.encode()) for name, value in signed().items()]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/tickets",
            "raw_path": b"/v1/tickets",
            "query_string": b"",
            "headers": headers,
            "app": None,
        }
        await Office().app(scope, receive, send)
        assert sent[0]["status"] == 400
