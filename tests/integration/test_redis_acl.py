"""The gateway runs as a user of Redis that may do what docs/security-setup.md says, and nothing else."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis.asyncio

from gateway.config import Settings
from gateway.startup import StartRefused, Startup
from listeners.credential_store import CredentialStore
from listeners.doctor_redis import examine_redis
from listeners.errors import Refused
from listeners.findings import Grade
from listeners.keys import Keys
from listeners.redis_acl import CLUSTER_COMMANDS, COMMANDS, acl_line
from listeners.redis_client import connect_redis, translated
from tests.support.gateway import running_gateway
from tests.support.waiting import eventually
from tests.support.watcher import watching

PREFIX = "shop7"
PASSWORD = "p:4ss"
ROOT = Path(__file__).parents[2]


@pytest.fixture
async def admin(private_valkey: Any) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(private_valkey.url, protocol=2)
    try:
        yield client
    finally:
        await client.aclose()


@pytest.fixture
async def acl_url(admin: redis.asyncio.Redis, private_valkey: Any) -> str:
    """Of a user with exactly these rights; the default user is switched off for whoever comes now."""
    line = acl_line("gateway", PASSWORD, prefix=PREFIX)
    await admin.execute_command("ACL", "SETUSER", *line.split())  # type: ignore[no-untyped-call]  # a gap of redis-py
    port = urlsplit(private_valkey.url).port
    return f"redis://gateway:p%3A4ss@127.0.0.1:{port}/0"


async def denied(admin: redis.asyncio.Redis) -> list[Any]:
    found = await admin.execute_command("ACL", "LOG")  # type: ignore[no-untyped-call]  # a gap of redis-py
    return list(found)


async def test_all_of_it_runs(
    admin: redis.asyncio.Redis, acl_url: str, database_url: str, pg: asyncpg.Connection
) -> None:
    await pg.execute(
        """
        INSERT INTO vendors (vendor_id, name) VALUES ('V1', 'Vendor');
        INSERT INTO locations (location_id, vendor_id, name) VALUES ('L1', 'V1', 'Main street');
        INSERT INTO products (product_id, vendor_id, sku, name, price_minor, status)
            SELECT 'P' || n, 'V1', 'S' || n, 'Product', 100, 'published' FROM generate_series(1, 300) n;
        INSERT INTO inventory (product_id, location_id, vendor_id, on_hand)
            SELECT 'P' || n, 'L1', 'V1', 10 FROM generate_series(1, 300) n
        """
    )
    settings = {"verify_s": 1, "jwt_secret": "x" * 32}
    async with running_gateway(database_url, acl_url, PREFIX, **settings) as gateway:
        await eventually(gateway.is_ready, timeout_s=15)
        async with watching(gateway.url, ["location:L1", "product:P1"]) as client:
            await eventually(lambda: client.is_complete("location:L1"))
            await pg.execute("UPDATE inventory SET on_hand = 7 WHERE product_id = 'P1'")
            await eventually(lambda: client.copies["location:L1"].items["stock:P1:L1"]["on_hand"] == 7)
            await pg.execute("TRUNCATE inventory")
            await eventually(lambda: "stock:P1:L1" not in client.copies["location:L1"].items, timeout_s=10)
        store = CredentialStore(connect_redis(acl_url), Keys(PREFIX))
        await store.put_ticket("digest", b"holder", 30)
        assert await store.take_ticket("digest") == b"holder"
        await store.revoke("jti", "digest", issued_until=0, ends_at=1, now_ms=1)
        assert len(await store.revocations(None)) == 1
        await store._client.aclose()
    findings = await examine_redis(acl_url, prefix=PREFIX, timeout_s=5)
    assert all(finding.grade is Grade.OK for finding in findings), findings
    assert await denied(admin) == []


@pytest.mark.parametrize(
    "command",
    [
        ("SET", "other:key", "x"),
        ("GET", "other:key"),
        ("PUBLISH", "other:channel", "x"),
        ("SUBSCRIBE", "other:channel"),
        ("KEYS", "*"),
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("ACL", "LIST"),
        ("DEL", f"{PREFIX}:1:x"),
        ("EVAL", "return redis.call('GET', KEYS[1])", "1", "other:key"),
        ("EVAL", "return redis.call('KEYS', '*')", "0"),
        ("CLIENT", "KILL", "ID", "1"),
    ],
)
async def test_nothing_else(acl_url: str, command: tuple[str, ...]) -> None:
    client = connect_redis(acl_url)
    try:
        with pytest.raises(Refused), translated():
            await client.execute_command(*command)
    finally:
        await client.aclose()


async def test_another_prefix_than_the_users_is_refused_at_the_start(acl_url: str, database_url: str) -> None:
    with pytest.raises(StartRefused, match=r"GATEWAY_REDIS_URL: Redis refuses: .*[Nn]o permissions"):
        await Startup(Settings(database_url=database_url, redis_url=acl_url)).wait()


async def test_a_wrong_password(acl_url: str, database_url: str) -> None:
    url = acl_url.replace("p%3A4ss", "wrong")
    with pytest.raises(StartRefused, match="GATEWAY_REDIS_URL: Redis refuses: ") as caught:
        await Startup(Settings(database_url=database_url, redis_url=url, redis_prefix=PREFIX)).wait()
    assert "wrong" not in str(caught.value)


def test_every_command_that_the_sources_name_is_allowed() -> None:
    """A new one belongs into listeners/redis_acl.py and into the page."""
    named = set()
    for file in (ROOT / "listeners").rglob("*.lua"):
        named |= set(re.findall(r"redis\.call\('([A-Z]+)'", file.read_text()))
    for file in (ROOT / "listeners").glob("*.py"):
        # What is called, and what begins a tuple.
        named |= set(re.findall(r'\(\s*(?:self\._client,\s*)?"([A-Z]{3,})"', file.read_text()))
    named -= {"LISTEN", "NEW"}  # Postgres'
    assert len(named) > 20
    allowed = {name.partition("|")[0].upper() for name in (*COMMANDS, *CLUSTER_COMMANDS)}
    assert named - allowed == set()


def test_the_page_shows_the_same_line() -> None:
    page = " ".join((ROOT / "docs" / "security-setup.md").read_text().split())
    assert acl_line("gateway", "PASSWORD") in page
    assert all(f"+{name}" in page for name in CLUSTER_COMMANDS)
