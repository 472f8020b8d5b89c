"""Identity on real servers and two replicas: tokens, tickets, revocation, scopes, what changes hands.

Who gets what is in test_matrix.py.
"""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

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
from tests.support.messages import next_message
from tests.support.tokens import SECRET
from tests.support.waiting import eventually

READ = [Permission.READ_EXACT, Permission.READ_PUBLIC]


class Two(NamedTuple):
    one: RunningGateway
    other: RunningGateway
    shop: asyncpg.Connection


@pytest.fixture
async def two(
    pg: asyncpg.Connection, database_url: str, redis_url: str, redis_prefix: str
) -> AsyncIterator[Two]:
    await pg.execute(
        """
        INSERT INTO vendors (vendor_id, name) VALUES ('V', 'Ours'), ('W', 'Theirs');
        INSERT INTO locations (location_id, vendor_id, name)
            VALUES ('L1', 'V', 'One'), ('L2', 'V', 'Two'), ('LW', 'W', 'Theirs');
        INSERT INTO products (product_id, vendor_id, sku, name, price_minor, status)
            VALUES ('A', 'V', 'a', 'A', 1, 'published'), ('D', 'V', 'd', 'D', 1, 'draft'),
                ('B', 'W', 'b', 'B', 1, 'published');
        INSERT INTO inventory (product_id, location_id, vendor_id, on_hand)
            VALUES ('A', 'L1', 'V', 10), ('A', 'L2', 'V', 20), ('D', 'L1', 'V', 5), ('B', 'LW', 'W', 30);
        """
    )
    settings: dict[str, Any] = {"jwt_secret": SECRET, "anonymous": "public"}
    async with (
        running_gateway(database_url, redis_url, redis_prefix, **settings) as one,
        running_gateway(database_url, redis_url, redis_prefix, relay="off", **settings) as other,
    ):
        await eventually(one.is_ready, timeout_s=15)
        await eventually(other.is_ready, timeout_s=15)
        yield Two(one, other, pg)


def token(subject: str = "till", vendor: str | None = "V", *locations: str, ttl_s: float = 600) -> str:
    return mint_token(
        SECRET, subject=subject, vendor=vendor, locations=locations or ("L1",), permissions=READ, ttl_s=ttl_s
    )


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


async def snapshot(client: ClientConnection, topic: str, **more: str) -> Any:
    """The items of a topic by key; or the code of the error."""
    await client.send(orjson.dumps({"type": "subscribe", "topics": [topic], **more}).decode())
    async with asyncio.timeout(10):
        while True:
            message = orjson.loads(await client.recv())
            if message.get("topic") != topic:
                continue
            if message["type"] == "error":
                return message["code"]
            if message["type"] == "snapshot":
                return {
                    ":".join(item[name] for name in ("kind", "product_id", "location_id") if name in item)
                    for item in message["items"]
                }


async def closed(client: ClientConnection) -> int:
    async with asyncio.timeout(10):
        while True:
            try:
                await client.recv()
            except ConnectionClosed as end:
                return 0 if end.rcvd is None else end.rcvd.code


EVERYTHING_OF_A = {"product:A", "stock:A:L1", "stock:A:L2"}


async def test_a_product_that_changes_hands(two: Two) -> None:
    async with (
        two.one.connect(additional_headers=bearer(token("v", "V", EVERY))) as of_v,
        two.other.connect(additional_headers=bearer(token("w", "W", EVERY))) as of_w,
    ):
        assert await snapshot(of_v, "product:A") == EVERYTHING_OF_A
        assert await snapshot(of_w, "product:A") == set()
        await two.shop.execute(
            """
            BEGIN;
            DELETE FROM inventory WHERE product_id = 'A';
            UPDATE products SET vendor_id = 'W' WHERE product_id = 'A';
            INSERT INTO inventory (product_id, location_id, vendor_id, on_hand) VALUES ('A', 'LW', 'W', 77);
            COMMIT;
            """
        )
        gone: set[str] = set()
        while len(gone) < 3:
            for item in (await next_message(of_v, "delta"))["items"]:
                assert item["deleted"]
                assert item.get("location_id") != "LW"
                gone.add(f"{item['kind']}:{item['product_id']}:{item.get('location_id', '')}")
        got: dict[str, Any] = {}
        while len(got) < 2:
            for item in (await next_message(of_w, "delta"))["items"]:
                assert item["vendor_id"] == "W"
                got[item["kind"]] = item
        assert got["stock"]["on_hand"] == 77


async def test_a_ticket_is_good_once_and_anywhere(two: Two) -> None:
    async with httpx.AsyncClient(headers=bearer(token()), trust_env=False) as http:
        answer = await http.post(f"{two.one.http_url}/v1/tickets")
        assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
        assert answer.json()["expires_in"] <= 30
        ticket = answer.json()["ticket"]
    async with two.other.connect(f"?ticket={ticket}&topics=location:L1") as client:
        assert (await next_message(client, "welcome"))["principal"] == "till"
        assert (await next_message(client, "snapshot"))["topic"] == "location:L1"
    async with two.one.connect(f"?ticket={ticket}") as client:
        assert (await next_message(client, "error"))["code"] == "unauthenticated"
        assert await closed(client) == 4401
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.post(f"{two.one.http_url}/v1/tickets")).status_code == 401


@pytest.mark.parametrize("option", [("--subject", "till-7"), ("--jti", None)])
async def test_revocation_reaches_every_replica(
    two: Two,
    redis_url: str,
    redis_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    option: tuple[str, str | None],
) -> None:
    good = token("till-7")
    jti = orjson.loads(base64.urlsafe_b64decode(good.split(".")[1] + "=="))["jti"]
    async with (
        two.one.connect(additional_headers=bearer(good)) as one,
        two.other.connect(additional_headers=bearer(good)) as other,
        two.one.connect(additional_headers=bearer(token("till-8"))) as unconcerned,
    ):
        for client in (one, other, unconcerned):
            await next_message(client, "welcome")
        monkeypatch.setenv("GATEWAY_REDIS_URL", redis_url)
        monkeypatch.setenv("GATEWAY_REDIS_PREFIX", redis_prefix)
        name, value = option
        assert await asyncio.to_thread(run_command, ["revoke", name, value or jti]) == 0
        assert [await closed(client) for client in (one, other)] == [4401, 4401]
        async with two.other.connect(additional_headers=bearer(good)) as again:
            assert (await next_message(again, "error"))["code"] == "token_expired"
            assert await closed(again) == 4401
        await unconcerned.send('{"type":"ping"}')
        await next_message(unconcerned, "pong")


async def test_the_end_of_a_token(two: Two) -> None:
    async with two.one.connect(additional_headers=bearer(token(ttl_s=3))) as client:
        assert (await next_message(client, "welcome"))["principal"] == "till"
        await next_message(client, "auth_expiring")
        assert await closed(client) == 4401


async def test_http(two: Two) -> None:
    async with httpx.AsyncClient(headers=bearer(token()), base_url=two.one.http_url, trust_env=False) as http:
        assert [row["location_id"] for row in (await http.get("/v1/products/A")).json()["stock"]] == ["L1"]
        foreign, missing = await http.get("/v1/products/B"), await http.get("/v1/products/X")
        assert (foreign.status_code, foreign.content.replace(b"B", b"X")) == (
            404,
            missing.content.replace(b"B", b"X"),
        )
        assert (await http.get("/v1/vendors/W/stock")).status_code == 403
    async with httpx.AsyncClient(headers=bearer("x.y.z"), base_url=two.one.http_url, trust_env=False) as http:
        assert (await http.get("/v1/products/A")).status_code == 401
