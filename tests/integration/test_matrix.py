"""The matrix: principal by topic, view and operation, as the table of docs/identity.md has it, on real
servers."""

import asyncio
import base64
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import asyncpg
import httpx
import orjson
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from gateway.auth.minting import mint_token
from gateway.cli import run_command
from protocol.principal import EVERY, Permission
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.tokens import SECRET
from tests.support.waiting import eventually

PAGE: Final = Path(__file__).parents[2] / "docs" / "identity.md"
PUBLIC: Final = [Permission.READ_PUBLIC]
READ: Final = [Permission.READ_PUBLIC, Permission.READ_EXACT]

SHOP = """
INSERT INTO vendors (vendor_id, name) VALUES ('V', 'Ours'), ('W', 'Theirs');
INSERT INTO locations (location_id, vendor_id, name)
    VALUES ('L1', 'V', 'One'), ('L2', 'V', 'Two'), ('LW', 'W', 'Theirs');
INSERT INTO products (product_id, vendor_id, name, status)
    VALUES ('A', 'V', 'A', 'published'), ('D', 'V', 'D', 'draft'), ('B', 'W', 'B', 'published');
INSERT INTO inventory (product_id, location_id, vendor_id, on_hand)
    VALUES ('A', 'L1', 'V', 10), ('A', 'L2', 'V', 20), ('D', 'L1', 'V', 5), ('B', 'LW', 'W', 30);
"""
# Product, its vendor, whether it is published, where there is stock of it.
PRODUCTS: Final = (("A", "V", True, ("L1", "L2")), ("D", "V", False, ("L1",)), ("B", "W", True, ("LW",)))


def table() -> tuple[list[str], dict[str, dict[str, str]]]:
    """Who there is, and of each operation what they get."""
    rows = [
        [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        for line in PAGE.read_text().splitlines()
        if line.startswith("|")
    ]
    head = next(row for row in rows if row[0] == "operation")
    body = [row for row in rows[rows.index(head) + 2 :] if len(row) == len(head)]
    return head[1:], {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in body}


WHO, TABLE = table()


def seen(topic: str, cell: str) -> set[str] | None:
    """The keys that a cell stands for, from the shop alone; None: it stands for something else."""
    view, *limits = cell.split()
    if view not in ("exact", "public", "nothing"):
        return None
    kind, _, name = topic.partition(":")
    found: set[str] = set()
    for product, vendor, published, places in PRODUCTS:
        here = [place for place in places if kind != "location" or place == name]
        mine = {"product": product == name, "vendor": vendor == name, "location": bool(here)}[kind]
        if not mine or view == "nothing" or (limits and vendor != limits[0]):
            continue
        if view == "exact":
            there = [place for place in here if len(limits) < 2 or place == limits[1]]
            found |= {f"product:{product}", *(f"stock:{product}:{place}" for place in there)}
        elif published:
            place = f":{name}" if kind == "location" else ""
            found |= {f"product:{product}", f"availability:{product}{place}"}
    return found


def key(item: dict[str, Any]) -> str:
    return ":".join(item[name] for name in ("kind", "product_id", "location_id") if name in item)


def token(who: str, *locations: str) -> str:
    vendor = {"service": EVERY, "shopper": None}.get(who, "V")
    places = locations or {"service": (EVERY,), "staff": (EVERY,), "shopper": ()}.get(who, ("L1",))
    return mint_token(
        SECRET,
        subject=who,
        vendor=vendor,
        locations=places,
        permissions=PUBLIC if who == "shopper" else READ,
        ttl_s=600,
        now=time.time() - 3600 if who == "expired" else None,
    )


class Server(NamedTuple):
    gateway: RunningGateway
    tokens: dict[str, str]

    def headers(self, who: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[who]}"} if who in self.tokens else {}


@pytest.fixture
async def server(
    pg: asyncpg.Connection,
    database_url: str,
    redis_url: str,
    redis_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Server]:
    await pg.execute(SHOP)
    settings: dict[str, Any] = {"jwt_secret": SECRET, "anonymous": "public"}
    tokens = {who: token(who) for who in WHO if who != "anonymous"}
    async with running_gateway(database_url, redis_url, redis_prefix, **settings) as gateway:
        await eventually(gateway.is_ready, timeout_s=15)
        monkeypatch.setenv("GATEWAY_REDIS_URL", redis_url)
        monkeypatch.setenv("GATEWAY_REDIS_PREFIX", redis_prefix)
        jti = orjson.loads(base64.urlsafe_b64decode(tokens["revoked"].split(".")[1] + "=="))["jti"]
        assert await asyncio.to_thread(run_command, ["revoke", "--jti", jti]) == 0
        server = Server(gateway, tokens)
        async with httpx.AsyncClient(base_url=gateway.http_url, trust_env=False) as http:

            async def is_revoked() -> bool:
                answer = await http.get("/v1/products/A", headers=server.headers("revoked"))
                return answer.status_code == 401

            await eventually(is_revoked, timeout_s=10)
        yield server


class Guest:
    """One principal's connection."""

    def __init__(self, client: ClientConnection) -> None:
        self._client = client
        self._numbers = iter(range(1000))

    async def ask(self, *kinds: str, **message: Any) -> dict[str, Any]:
        """The answer to a message; it is known by its `id`, and of one of these kinds or an error."""
        number = f"q{next(self._numbers)}"
        await self._client.send(orjson.dumps({**message, "id": number}).decode())
        return await self.wait_for(lambda m: m.get("id") == number and m["type"] in (*kinds, "error"))

    async def wait_for(self, condition: Any) -> dict[str, Any]:
        async with asyncio.timeout(10):
            while True:
                message: dict[str, Any] = orjson.loads(await self._client.recv())
                if condition(message):
                    return message

    async def subscribe(self, topic: str, **more: Any) -> dict[str, Any]:
        return await self.ask("snapshot", "resumed", type="subscribe", topics=[topic], **more)


async def by_socket(guest: Guest, operation: str, expected: str) -> str:
    """What the operation comes to, in the words of the table."""
    verb, *rest = operation.partition(",")[0].split()
    if verb == "publish":
        operations = [
            {"op": "adjust", "product_id": "A", "location_id": "L1", "bucket": "on_hand", "delta": 1}
        ]
        answer = await guest.ask("published", type="publish", idempotency_key="k", operations=operations)
    elif verb == "auth":
        answer = await guest.ask("authenticated", type="auth", token=token("somebody-else"))
    elif verb == "unsubscribe":
        answer = await guest.ask("unsubscribed", type="unsubscribe", topics=rest)
    elif verb == "resume":
        first = await guest.subscribe(rest[-1])
        position = {"epoch": first["epoch"], "seq": first["seq"]}
        answer = await guest.subscribe(rest[-1], resume={rest[-1]: position})
    else:
        view = {"view": rest[0]} if len(rest) > 1 else {}
        answer = await guest.subscribe(rest[-1], **view)
        if answer["type"] == "snapshot":
            keys = {key(item) for item in answer["items"]}
            return expected if keys == seen(rest[-1], expected) else f"{sorted(keys)}"
    return str(answer["code"] if answer["type"] == "error" else answer["type"])


async def refused(server: Server, who: str) -> str:
    """How somebody is sent away whose credentials are no good, whatever is asked for."""
    headers = server.headers(who)
    async with server.gateway.connect("?topics=product:A", additional_headers=headers) as client:
        heard = []
        try:
            async with asyncio.timeout(10):
                while True:
                    heard.append(orjson.loads(await client.recv()))
        except ConnectionClosed as end:
            assert [message["type"] for message in heard] == ["welcome", "error"]
            assert heard[-1]["code"] == "token_expired"
            return "none" if end.rcvd is None else str(end.rcvd.code)


async def by_http(http: httpx.AsyncClient, operation: str, expected: str) -> str:
    verb, path = operation.split()
    answer = await http.request(verb, path)
    if answer.status_code == 403:
        return "forbidden"
    _, _, kind, name, *_ = [*path.partition("?")[0].split("/"), ""]
    topic = f"{kind.removesuffix('s')}:{name}"
    if answer.status_code == 404:
        return "nothing" if expected == "nothing" else "404"
    if answer.status_code != 200:
        return str(answer.status_code)
    body = answer.json()
    items = body.get("items", []) + body.get("products", []) + body.get("stock", [])
    if kind == "products":
        items.append(body["product"])
        if body["view"] == "public":
            items.append(body["availability"])
    keys = {key(item) for item in items}
    wanted = seen(topic, expected)
    if kind != "products" and wanted is not None:  # pages have the products of their rows alone
        sold = {entry.split(":")[1] for entry in wanted if not entry.startswith("product:")}
        wanted = {entry for entry in wanted if entry.split(":")[1] in sold}
    return expected if keys == wanted else f"{answer.status_code} {sorted(keys)}"


def is_http(operation: str) -> bool:
    return operation.startswith(("GET ", "POST "))


async def outcomes(server: Server, who: str) -> dict[str, str]:
    """Of all operations, tried in the order of the table."""
    found: dict[str, str] = {}
    wanted = {operation: row[who] for operation, row in TABLE.items()}
    async with httpx.AsyncClient(
        base_url=server.gateway.http_url, headers=server.headers(who), trust_env=False
    ) as http:
        for operation, expected in wanted.items():
            if is_http(operation):
                found[operation] = await by_http(http, operation, expected)
    sockets = {operation: cell for operation, cell in wanted.items() if not is_http(operation)}
    if who in ("expired", "revoked"):
        return found | {o: "-" if cell == "-" else await refused(server, who) for o, cell in sockets.items()}
    first = bearer = server.headers(who)
    if who == "narrowed":
        bearer = {"Authorization": f"Bearer {token(who, 'L1', 'L2')}"}
    async with server.gateway.connect(additional_headers=bearer) as client:
        guest = Guest(client)
        kept = await narrow(guest, first) if who == "narrowed" else "-"
        for operation, expected in sockets.items():
            held = operation.startswith("keep ")
            found[operation] = kept if held else await by_socket(guest, operation, expected)
    return found


async def narrow(guest: Guest, headers: dict[str, str]) -> str:
    """New credentials with fewer places; what becomes of the subscription that they do not cover."""
    assert (await guest.subscribe("location:L2", view="exact"))["items"]
    text = headers["Authorization"].removeprefix("Bearer ")
    await guest.ask("authenticated", type="auth", token=text)
    ended = await guest.wait_for(lambda m: m["type"] == "unsubscribed" and m["topic"] == "location:L2")
    return str(ended["reason"])


async def test_every_cell(server: Server) -> None:
    found = {who: await outcomes(server, who) for who in WHO}
    surprises = [
        f"{who}, {operation}: {found[who][operation]}, not {cell}"
        for operation, row in TABLE.items()
        for who, cell in row.items()
        if found[who][operation] != cell
    ]
    assert surprises == []


def test_everybody_and_every_operation_is_in_the_table() -> None:
    assert WHO == ["anonymous", "shopper", "till", "staff", "service", "expired", "revoked", "narrowed"]
    operations = [re.sub(r"[ ,].*", "", operation) for operation in TABLE]
    assert set(operations) == {"subscribe", "resume", "keep", "unsubscribe", "auth", "publish", "GET", "POST"}
    for kind in ("product", "location", "vendor"):
        for view in ("", "exact ", "public "):
            if (kind, view) != ("location", "public "):
                assert any(o.startswith(f"subscribe {view}{kind}:") for o in TABLE), (kind, view)
    assert len(TABLE) * len(WHO) > 200


@pytest.mark.parametrize(
    ("topic", "cell", "keys"),
    [
        ("product:A", "exact V L1", {"product:A", "stock:A:L1"}),
        ("product:B", "exact V", set()),
        ("location:L1", "public", {"product:A", "availability:A:L1"}),
        ("vendor:W", "exact", {"product:B", "stock:B:LW"}),
        ("product:A", "forbidden", None),
    ],
)
def test_what_a_cell_stands_for(topic: str, cell: str, keys: set[str] | None) -> None:
    assert seen(topic, cell) == keys
