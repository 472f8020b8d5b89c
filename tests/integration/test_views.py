"""Views on real servers, at the socket: what the public, and a scope, can not see is not a byte."""

import re
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import asyncpg
import httpx
import orjson
import pytest

from gateway.auth.minting import mint_token
from protocol.principal import EVERY, Permission
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.raw_client import RawClient, raw_client
from tests.support.tokens import SECRET
from tests.support.waiting import eventually

READ = [Permission.READ_EXACT, Permission.READ_PUBLIC]
NUMBERS = re.compile(rb'"(seq|version)":\d+')
EPOCH = re.compile(rb'"epoch":"[^"]*"')

SHOP = """
INSERT INTO vendors (vendor_id, name) VALUES ('V', 'Ours'), ('W', 'Theirs');
INSERT INTO locations (location_id, vendor_id, name, active)
    VALUES ('L1', 'V', 'One', true), ('L2', 'V', 'Two', true), ('LX', 'V', 'Closed', false),
        ('LD', 'V', 'Drafts only', true), ('LW', 'W', 'Theirs', true);
INSERT INTO products (product_id, vendor_id, sku, name, price_minor, status)
    VALUES ('A', 'V', 'a', 'A', 1, 'published'), ('D', 'V', 'd', 'D', 1, 'draft'),
        ('R', 'V', 'r', 'R', 1, 'archived'), ('B', 'W', 'b', 'B', 1, 'published');
INSERT INTO inventory (product_id, location_id, vendor_id, on_hand)
    VALUES ('A', 'L1', 'V', 100), ('A', 'L2', 'V', 50), ('A', 'LX', 'V', 5), ('D', 'L1', 'V', 5),
        ('D', 'LD', 'V', 7), ('R', 'L1', 'V', 3), ('B', 'LW', 'W', 30);
"""

# Of each: the topics of the exact view that it changes, by which is known that it has come through.
HIDDEN = [
    ("UPDATE inventory SET on_hand = 60 WHERE product_id = 'A' AND location_id = 'L1'", "product:A"),
    ("UPDATE inventory SET reserved = 7 WHERE product_id = 'A' AND location_id = 'L1'", "location:L1"),
    ("UPDATE inventory SET low_stock_at = 9 WHERE product_id = 'A' AND location_id = 'L2'", "product:A"),
    ("UPDATE inventory SET on_hand = 77 WHERE product_id = 'A' AND location_id = 'LX'", "product:A"),
    ("UPDATE inventory SET on_hand = 2 WHERE product_id = 'D' AND location_id = 'L1'", "location:L1"),
    ("UPDATE products SET name = 'renamed' WHERE product_id = 'D'", "product:D"),
    ("UPDATE products SET status = 'archived' WHERE product_id = 'D'", "location:L1"),
    ("UPDATE products SET status = 'draft' WHERE product_id = 'R'", "location:L1"),
    (
        "INSERT INTO products (product_id, vendor_id, name, status) VALUES ('N', 'V', 'New', 'draft')",
        "product:N",
    ),
    ("INSERT INTO inventory (product_id, location_id, vendor_id) VALUES ('N', 'L1', 'V')", "location:L1"),
    ("DELETE FROM inventory WHERE product_id = 'D' AND location_id = 'L1'", "location:L1"),
    ("DELETE FROM inventory WHERE product_id = 'D'", "product:D"),
    ("DELETE FROM products WHERE product_id = 'D'", "product:D"),
]
SALE = "UPDATE inventory SET on_hand = on_hand + 1 WHERE product_id <> 'A'"
SELL_A = "UPDATE inventory SET on_hand = $1 WHERE product_id = 'A' AND location_id = 'L1'"
WATCHED = ["product:A", "product:D", "product:N", "location:L1"]


class Shop(NamedTuple):
    gateway: RunningGateway
    sql: asyncpg.Connection


@pytest.fixture
async def shop(
    pg: asyncpg.Connection, database_url: str, redis_url: str, redis_prefix: str
) -> AsyncIterator[Shop]:
    await pg.execute(SHOP)
    # No heartbeat comes between; whatever is heard is heard for a change.
    settings: dict[str, Any] = {"jwt_secret": SECRET, "anonymous": "public", "heartbeat_s": 3600}
    async with running_gateway(database_url, redis_url, redis_prefix, **settings) as gateway:
        await eventually(gateway.is_ready, timeout_s=15)
        yield Shop(gateway, pg)


def bearer(subject: str, vendor: str, *locations: str) -> dict[str, str]:
    token = mint_token(
        SECRET, subject=subject, vendor=vendor, locations=locations, permissions=READ, ttl_s=600
    )
    return {"Authorization": f"Bearer {token}"}


SERVICE = ("service", EVERY, EVERY)
TILL = ("till", "V", "L1")


async def follow(client: RawClient, topics: list[str], view: str) -> None:
    for topic in topics:
        await client.snapshot(topic, view=view)


async def test_the_public_gets_no_byte_on_a_change_it_can_not_see(shop: Shop) -> None:
    async with (
        raw_client(shop.gateway.port) as public,
        raw_client(shop.gateway.port, bearer(*SERVICE)) as witness,
    ):
        await follow(public, WATCHED, "public")
        await follow(witness, WATCHED, "exact")
        size, count = public.size, len(public.frames)
        for statement, topic in HIDDEN:
            await shop.sql.execute(statement)
            while f'"topic":"{topic}"'.encode() not in await witness.wait_for("delta"):
                pass
        grown, payloads = await public.since_fence(size, count)
        assert [orjson.loads(payload)["type"] for payload in payloads] == ["pong"], payloads
        assert grown == len(payloads[0]) + 2  # with the header of a short frame
        # And the other way round: it hears what it can see, and of that no number but what is left.
        await shop.sql.execute("UPDATE inventory SET on_hand = 1, reserved = 0 WHERE product_id = 'A'")
        heard = [orjson.loads(await public.wait_for("delta")) for _ in range(2)]
        items = {message["topic"]: message["items"] for message in heard}
        (whole,), (here,) = items["product:A"], items["location:L1"]
        assert (whole["kind"], whole["status"], whole["only_left"]) == ("availability", "low_stock", 2)
        assert (here["location_id"], here["only_left"]) == ("L1", 1)


def blanked(payload: bytes, topic: str) -> bytes:
    """Without what may differ: the name that was asked for, the epoch, and the two numbers."""
    text = NUMBERS.sub(rb'"\1":0', EPOCH.sub(b'"epoch":""', payload))
    return text.replace(topic.encode(), b"?")


# Who asks; what there is and is hidden from them; what is not there. Names are of one length.
HIDDEN_FROM = [
    pytest.param(None, "product:D", "product:X", id="a draft"),
    pytest.param(None, "product:R", "product:X", id="an archived product"),
    pytest.param(None, "location:LD", "location:XX", id="a place of drafts only"),
    pytest.param(TILL, "product:B", "product:X", id="a foreign product"),
    pytest.param(("staff", "V", EVERY), "location:LW", "location:XX", id="a foreign place"),
]


@pytest.mark.parametrize(("who", "hidden", "missing"), HIDDEN_FROM)
async def test_what_is_hidden_has_the_bytes_of_what_is_not_there(
    shop: Shop, who: tuple[str, ...] | None, hidden: str, missing: str
) -> None:
    headers = {} if who is None else bearer(*who)
    async with raw_client(shop.gateway.port, headers) as client:
        for _ in range(2):
            # Loaded by this question, both stand at the first position; the second time it is in memory.
            answers = [await client.snapshot(topic) for topic in (hidden, missing)]
            assert len(answers[0]) == len(answers[1])
            assert orjson.loads(answers[0])["seq"] == orjson.loads(answers[1])["seq"] == 1
            assert blanked(answers[0], hidden) == blanked(answers[1], missing)
        await change(shop, hidden, SALE)
        answers = [await client.snapshot(topic) for topic in (hidden, missing)]
        # What is left is what SECURITY.md says of `seq`.
        assert orjson.loads(answers[0])["seq"] > 1
        assert blanked(answers[0], hidden) == blanked(answers[1], missing)
        assert not any(b'{"type":"delta"' in frame.payload for frame in client.frames)


async def change(shop: Shop, topic: str, statement: str, *arguments: object) -> None:
    """Until it is known that the gateway has taken it."""
    async with raw_client(shop.gateway.port, bearer(*SERVICE)) as witness:
        await witness.snapshot(topic, view="exact")
        await shop.sql.execute(statement, *arguments)
        await witness.wait_for("delta")


HTTP_HIDDEN = [
    pytest.param(None, "/v1/products/D", "/v1/products/X", id="a draft"),
    pytest.param(None, "/v1/products/R", "/v1/products/X", id="an archived product"),
    pytest.param(None, "/v1/products/D?view=public", "/v1/products/X?view=public", id="a draft, by view"),
    pytest.param(None, "/v1/locations/LD/stock", "/v1/locations/XX/stock", id="a place of drafts only"),
    pytest.param(TILL, "/v1/products/B", "/v1/products/X", id="a foreign product"),
    pytest.param(
        ("staff", "V", EVERY), "/v1/locations/LW/stock", "/v1/locations/XX/stock", id="a foreign place"
    ),
    pytest.param(TILL, "/v1/vendors/W/stock", "/v1/vendors/X/stock", id="a foreign vendor"),
    pytest.param(None, "/v1/products/D?view=exact", "/v1/products/X?view=exact", id="what is forbidden"),
]


@pytest.mark.parametrize(("who", "hidden", "missing"), HTTP_HIDDEN)
async def test_by_http_it_has_the_same_status_headers_and_size(
    shop: Shop, who: tuple[str, ...] | None, hidden: str, missing: str
) -> None:
    headers = {} if who is None else bearer(*who)
    base = shop.gateway.http_url
    async with httpx.AsyncClient(base_url=base, headers=headers, trust_env=False) as http:
        for turn in range(4):
            if turn == 2:  # it moves, which must not show as a MISS
                await change(shop, topic_of(hidden), SALE)
            for more in ({}, {"If-None-Match": "*"}):
                one, other = [await http.get(path, headers=more) for path in (hidden, missing)]
                assert one.status_code == other.status_code
                assert without_name(one, hidden) == without_name(other, missing)


def topic_of(path: str) -> str:
    _, _, kind, name, *_ = path.partition("?")[0].split("/")
    return f"{kind.removesuffix('s')}:{name}"


def without_name(answer: httpx.Response, path: str) -> tuple[dict[str, str], bytes]:
    """An ETag is of the content, so of the name that was asked for as well."""
    name = topic_of(path).partition(":")[2].encode()
    headers = {key: value for key, value in answer.headers.items() if key not in ("date", "etag")}
    assert ("etag" in answer.headers) == (answer.status_code in (200, 304))
    return headers, re.sub(rb'([ "])%s(")' % name, rb"\1?\2", answer.content)


class TestHttpTellsNothingOfHiddenChanges:
    async def test_neither_by_the_tag_nor_by_the_cache(self, shop: Shop) -> None:
        async with httpx.AsyncClient(base_url=shop.gateway.http_url, trust_env=False) as http:
            first = await http.get("/v1/products/A")
            await change(shop, "product:A", SELL_A, 60)
            second = await http.get("/v1/products/A", headers={"If-None-Match": first.headers["etag"]})
            assert (second.status_code, second.headers["x-cache"]) == (304, "HIT")
            await change(shop, "product:A", SELL_A, 2)
            await shop.sql.execute("UPDATE inventory SET on_hand = 0 WHERE location_id = 'L2'")
            await eventually(lambda: self.tells(http, first.headers["etag"], "low_stock"), timeout_s=10)

    async def test_to_a_till_of_stock_elsewhere(self, shop: Shop) -> None:
        async with httpx.AsyncClient(
            base_url=shop.gateway.http_url, headers=bearer(*TILL), trust_env=False
        ) as http:
            first = await http.get("/v1/products/A")
            assert [row["location_id"] for row in first.json()["stock"]] == ["L1"]
            assert first.json()["availability"]["status"] == "in_stock"
            await change(
                shop, "product:A", "UPDATE inventory SET on_hand = on_hand + 1 WHERE location_id = 'L2'"
            )
            second = await http.get("/v1/products/A", headers={"If-None-Match": first.headers["etag"]})
            assert (second.status_code, second.headers["x-cache"]) == (304, "HIT")

    async def test_who_sees_everything_is_told_the_truth(self, shop: Shop) -> None:
        headers = bearer(*SERVICE)
        async with httpx.AsyncClient(
            base_url=shop.gateway.http_url, headers=headers, trust_env=False
        ) as http:
            told = [(await http.get("/v1/products/A")).headers["x-cache"] for _ in range(2)]
            await change(shop, "product:A", SELL_A, 60)
            told.append((await http.get("/v1/products/A")).headers["x-cache"])
            assert told == ["MISS", "HIT", "MISS"]

    async def tells(self, http: httpx.AsyncClient, etag: str, status: str) -> bool:
        answer = await http.get("/v1/products/A", headers={"If-None-Match": etag})
        return answer.status_code == 200 and answer.json()["availability"]["status"] == status


async def test_a_threshold_is_the_largest_of_the_active_places_or_the_default(shop: Shop) -> None:
    """5 where none is set (GATEWAY_LOW_STOCK)."""
    async with raw_client(shop.gateway.port) as public:
        await public.snapshot("product:A")
        for change, words in (
            ("on_hand = 2, low_stock_at = NULL", {"status": "low_stock", "only_left": 4}),
            ("on_hand = 3", {"status": "in_stock"}),  # six, above the default
            (
                "low_stock_at = CASE location_id WHEN 'L1' THEN 6 ELSE 3 END",
                {"status": "low_stock", "only_left": 6},
            ),
            (
                "low_stock_at = CASE location_id WHEN 'L1' THEN 0 WHEN 'LX' THEN 99 END",
                {"status": "in_stock"},
            ),
            ("on_hand = 0", {"status": "out_of_stock"}),
        ):
            await shop.sql.execute(f"UPDATE inventory SET {change} WHERE product_id = 'A'")
            (item,) = orjson.loads(await public.wait_for("delta"))["items"]
            assert {k: item[k] for k in ("status", "only_left") if k in item} == words


async def test_a_public_copy_is_never_resumed(shop: Shop) -> None:
    async with raw_client(shop.gateway.port) as public:
        first = orjson.loads(await public.snapshot("product:A", view="public"))
        position = {"product:A": {"epoch": first["epoch"], "seq": first["seq"]}}
        again = orjson.loads(await public.snapshot("product:A", view="public", resume=position))
        assert again["items"] == first["items"]
        assert not any(b'{"type":"resumed"' in frame.payload for frame in public.frames)
