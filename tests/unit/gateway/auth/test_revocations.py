import asyncio
from typing import Any

import pytest

from gateway.auth.authority import Authority
from gateway.auth.errors import BadToken, Reason
from gateway.auth.keys import KeyRing, secret_key
from gateway.auth.revocations import RevocationKind, Revocations, digest
from gateway.auth.tokens import TokenRules, TokenVerifier
from protocol.errors import ErrorCode, ProtocolError
from protocol.principal import Principal
from tests.support.credentials import MemoryCredentials
from tests.support.tokens import NOW, SECRET, claims, hs256
from tests.support.waiting import eventually


def holder(**fields: Any) -> Principal:
    usual: dict[str, Any] = {"name": "till", "permissions": frozenset(), "issued_at": 100.0, "jti": "j1"}
    return Principal(**usual | fields)


@pytest.fixture
def store() -> MemoryCredentials:
    return MemoryCredentials()


async def revoke(
    store: MemoryCredentials, kind: RevocationKind, name: str, *, until: float = 100, ends: float = 1000
) -> None:
    await store.revoke(kind, digest(name), issued_until=until, ends_at=ends, now_ms=1)


async def test_one_token(store: MemoryCredentials) -> None:
    revocations = Revocations(store, clock=lambda: 500)
    await revoke(store, RevocationKind.TOKEN, "j1")
    assert not revocations.is_revoked(holder())
    assert await revocations.refresh()
    assert revocations.is_revoked(holder())
    for other in (holder(jti="j2"), holder(jti=None), holder(jti="till"), holder(name="j1", jti=None)):
        assert not revocations.is_revoked(other)


@pytest.mark.parametrize(
    ("issued_at", "revoked"), [(99.0, True), (100.0, True), (100.5, False), (None, True)]
)
async def test_what_a_subject_had_until_then(
    store: MemoryCredentials, issued_at: float | None, revoked: bool
) -> None:
    revocations = Revocations(store, clock=lambda: 500)
    await revoke(store, RevocationKind.SUBJECT, "till", until=100)
    await revoke(store, RevocationKind.SUBJECT, "till", until=50)  # an earlier one takes nothing back
    await revocations.refresh()
    assert revocations.is_revoked(holder(issued_at=issued_at)) is revoked
    assert not revocations.is_revoked(holder(name="other", issued_at=issued_at))


async def test_only_what_is_new_is_read(store: MemoryCredentials) -> None:
    revocations = Revocations(store, clock=lambda: 500)
    for n in range(3):
        await revoke(store, RevocationKind.TOKEN, f"j{n}")
        assert await revocations.refresh()
        assert not await revocations.refresh()
    assert len(revocations) == 3


async def test_a_log_that_was_lost_is_read_anew_and_written_again(store: MemoryCredentials) -> None:
    revocations = Revocations(store, clock=lambda: 500)
    for n in range(3):
        await revoke(store, RevocationKind.TOKEN, f"j{n}")
    await revoke(store, RevocationKind.SUBJECT, "till", until=70)
    await revocations.refresh()
    store.records.clear()
    await revoke(store, RevocationKind.TOKEN, "later")  # before anybody has noticed
    await revoke(store, RevocationKind.TOKEN, "j1")
    assert await revocations.refresh()
    assert [record.digest for record in store.records].count(digest("j1")) == 1  # it was there
    started_later = Revocations(store, clock=lambda: 500)
    await started_later.refresh()
    for replica in (revocations, started_later):
        assert all(replica.is_revoked(holder(jti=jti)) for jti in ("j0", "j1", "j2", "later"))
        assert replica.is_revoked(holder(jti=None, issued_at=70))
        assert not replica.is_revoked(holder(jti=None, issued_at=71))


async def test_an_empty_log_is_written_again_by_one_replica(store: MemoryCredentials) -> None:
    replicas = [Revocations(store, clock=lambda: 500) for _ in range(3)]
    await revoke(store, RevocationKind.TOKEN, "j1")
    await revoke(store, RevocationKind.SUBJECT, "till", ends=499)  # of no use any more
    for replica in replicas:
        await replica.refresh()
    store.records.clear()
    for replica in replicas:
        await replica.refresh()
    assert [record.digest for record in store.records] == [digest("j1")]
    written = store.records[0]
    assert (written.kind, written.ends_at) == (RevocationKind.TOKEN, 1000)


async def test_a_log_that_goes_away_while_it_is_written_again(store: MemoryCredentials) -> None:
    revocations = Revocations(store, clock=lambda: 500)
    await revoke(store, RevocationKind.TOKEN, "j1")
    await revocations.refresh()
    store.records.clear()
    store.away_for.add("revoke")
    with pytest.raises(ProtocolError):
        await revocations.refresh()
    store.away_for.clear()
    await revocations.refresh()
    assert [record.digest for record in store.records] == [digest("j1")]


async def test_what_has_ended_anyway_is_forgotten(store: MemoryCredentials) -> None:
    now = [500.0]
    revocations = Revocations(store, clock=lambda: now[0])
    await revoke(store, RevocationKind.TOKEN, "j1", ends=900)
    await revoke(store, RevocationKind.SUBJECT, "till", ends=900)
    await revocations.refresh()
    assert len(revocations) == 2
    now[0] = 1000
    await revoke(store, RevocationKind.TOKEN, "j2", ends=2000)
    await revocations.refresh()
    assert len(revocations) == 1


async def test_while_the_store_is_away_all_stays_and_is_caught_up_with(store: MemoryCredentials) -> None:
    revocations = Revocations(store, poll_s=0.01, clock=lambda: 500)
    changes: list[int] = []
    await revoke(store, RevocationKind.TOKEN, "j1")
    task = asyncio.create_task(revocations.run(lambda: changes.append(len(revocations))))
    try:
        await eventually(lambda: changes == [1])
        store.away = True
        asked = store.asked
        await eventually(lambda: store.asked > asked + 3)
        assert revocations.is_revoked(holder())
        store.away = False
        await revoke(store, RevocationKind.SUBJECT, "till")
        await eventually(lambda: changes == [1, 2])
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_revoked_token_is_not_taken(store: MemoryCredentials) -> None:
    revocations = Revocations(store, clock=lambda: NOW)
    verifier = TokenVerifier(TokenRules(), KeyRing(secret_key(SECRET)), clock=lambda: NOW)
    authority = Authority(verifier, is_revoked=revocations.is_revoked)
    token = hs256(claims(jti="j9"))
    assert authority.check_nowait(token).jti == "j9"
    await revoke(store, RevocationKind.TOKEN, "j9", ends=NOW + 60)
    await revocations.refresh()
    with pytest.raises(BadToken) as raised:
        authority.check_nowait(token)
    assert (raised.value.reason, raised.value.code) == (Reason.REVOKED, ErrorCode.TOKEN_EXPIRED)
    assert isinstance(raised.value, ProtocolError)
