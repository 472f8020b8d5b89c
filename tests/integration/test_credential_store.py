"""Tickets and revocations in a real Redis."""

import asyncio
import secrets
from contextlib import aclosing

import pytest

from gateway.auth.revocations import RevocationKind, Revocations, digest
from listeners.credential_store import CredentialStore
from listeners.keys import Keys
from listeners.redis_client import connect_redis
from protocol.errors import ErrorCode, ProtocolError
from protocol.principal import Principal
from tests.support.ports import free_port


async def opened(url: str, prefix: str) -> CredentialStore:
    return CredentialStore(connect_redis(url), Keys(prefix))


async def test_a_ticket_is_taken_by_one_of_many(redis_url: str, redis_prefix: str) -> None:
    store = await opened(redis_url, redis_prefix)
    await store.put_ticket("d", b"holder", 30)
    taken = await asyncio.gather(*(store.take_ticket("d") for _ in range(20)))
    assert sorted(answer or b"" for answer in taken) == [b""] * 19 + [b"holder"]
    await store._client.aclose()


async def test_a_ticket_ends_by_itself(redis_url: str, redis_prefix: str) -> None:
    store = await opened(redis_url, redis_prefix)
    await store.put_ticket("d", b"holder", 30)
    assert 0 < await store._client.execute_command("PTTL", Keys(redis_prefix).ticket("d")) <= 30_000
    await store._client.aclose()


async def test_of_the_same_request_at_many_replicas_one_is_the_first(
    redis_url: str, redis_prefix: str
) -> None:
    one, other = await opened(redis_url, redis_prefix), await opened(redis_url, redis_prefix)
    async with aclosing(one._client), aclosing(other._client):
        first = await asyncio.gather(*(store.remember("d", 30) for store in (one, other) * 10))
        assert sum(first) == 1
        assert await other.remember("e", 30)
        assert 0 < await one._client.execute_command("PTTL", Keys(redis_prefix).request("d")) <= 30_000


async def test_revocations_in_their_order_and_from_a_place(redis_url: str, redis_prefix: str) -> None:
    store = await opened(redis_url, redis_prefix)
    assert await store.last_revocation() is None
    assert await store.revocations(None) == []
    for n in range(2100):  # more than a page
        await store.revoke("jti", f"d{n}", issued_until=n + 0.5, ends_at=2e9, now_ms=1_800_000_000_000)
    records = await store.revocations(None)
    assert [record.digest for record in records] == [f"d{n}" for n in range(2100)]
    assert (records[7].issued_until, records[7].ends_at) == (7.5, 2e9)
    assert await store.last_revocation() == records[-1].place
    assert [record.digest for record in await store.revocations(records[2098].place)] == ["d2099"]
    assert await store.revocations(records[-1].place) == []
    assert await store.has_revocation(records[7].place)
    await store._client.execute_command("DEL", Keys(redis_prefix).revocations())
    assert not await store.has_revocation(records[7].place)
    await store._client.aclose()


async def test_replicas_hear_of_it(redis_url: str, redis_prefix: str) -> None:
    store = await opened(redis_url, redis_prefix)
    revocations = Revocations(store)
    subject = secrets.token_hex(4)
    await store.revoke(RevocationKind.SUBJECT, digest(subject), issued_until=100, ends_at=2e9, now_ms=1)
    assert await revocations.refresh()
    assert revocations.is_revoked(Principal(subject, frozenset(), issued_at=99))
    await store._client.aclose()


async def test_nobody_there() -> None:
    store = await opened(f"redis://127.0.0.1:{free_port()}", "t")
    for question in (
        store.take_ticket("d"),
        store.put_ticket("d", b"", 1),
        store.remember("d", 1),
        store.last_revocation(),
        store.revocations(None),
    ):
        with pytest.raises(ProtocolError) as raised:
            await question
        assert raised.value.code is ErrorCode.UNAVAILABLE
    await store._client.aclose()
