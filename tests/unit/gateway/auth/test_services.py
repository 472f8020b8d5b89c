"""Whose a signed request is: its time, its once, its service."""

import asyncio
from collections.abc import Callable, Sequence

import pytest
from structlog.testing import capture_logs

from gateway.auth.service_keys import read_service_keys
from gateway.auth.services import REMEMBER_S, TOLERANCE_S, ServiceSignatures
from gateway.auth.signatures import SignatureReason
from gateway.auth.tickets import TicketOffice
from protocol.errors import ErrorCode, ProtocolError
from protocol.principal import Principal
from tests.support.credentials import MemoryCredentials
from tests.support.signed import KEYS, headers_of, new_key, webhook_signature

NOW = 1_800_000_000.0
BODY = b'{"operations":[]}'
SCOPE = "vendor=V", "location=L1", "permission=inv:read:exact"
TILLS = ",".join(f"tills:{value}" for value in (KEYS["old"], *SCOPE))


class Desk:
    """A replica: its own clock and keys, and a memory that may be shared."""

    def __init__(self, keys: str = TILLS, *, memory: MemoryCredentials | None = None) -> None:
        self.memory = memory or MemoryCredentials()
        self.now = NOW
        self.ticks = 0.0
        self.revoked: Callable[[Principal], bool] = lambda _: False
        self.bodies_read = 0
        self.signatures = ServiceSignatures(
            read_service_keys(keys),
            self.memory,
            is_revoked=self._is_revoked,
            clock=lambda: self.now,
            monotonic=lambda: self.ticks,
        )

    def _is_revoked(self, principal: Principal) -> bool:
        return self.revoked(principal)

    async def check(self, headers: dict[str, str], body: bytes = BODY) -> Principal:
        async def read_body() -> bytes:
            self.bodies_read += 1
            await asyncio.sleep(0)
            return body

        lines: dict[str, Sequence[str]] = {name: [value] for name, value in headers.items()}
        return await self.signatures.check(lines, read_body)

    async def refused(self, headers: dict[str, str], body: bytes = BODY) -> SignatureReason:
        before = self.counts()
        with pytest.raises(ProtocolError) as raised:
            await self.check(headers, body)
        assert raised.value.code is ErrorCode.UNAUTHENTICATED
        for name in ("tills", "billing"):
            assert name not in raised.value.message
        (reason,) = {name for name, count in self.counts().items() if count != before.get(name, 0)}
        return SignatureReason(reason)

    def counts(self) -> dict[str, float]:
        refused = self.signatures.statistics()["gateway_signatures_refused"]
        assert isinstance(refused, dict)
        return dict(refused)


def signed(*keys: str, at: float = NOW, identity: str | None = None, body: bytes = BODY) -> dict[str, str]:
    return headers_of(body, *(keys or (KEYS["old"],)), timestamp=int(at), identity=identity)


async def test_who_has_signed() -> None:
    desk = Desk()
    assert await desk.check(signed(identity="m1")) == Principal(
        "service:tills",
        frozenset({"inv:read:exact"}),
        vendor_id="V",
        locations=frozenset({"L1"}),
        expires_at=NOW + 3600,
        issued_at=NOW,
        jti="service:tills:m1",
    )
    assert desk.signatures.statistics()["gateway_signatures_accepted"] == 1


async def test_an_empty_body_is_signed_too() -> None:
    assert (await Desk().check(signed(body=b""), b"")).name == "service:tills"


class TestTime:
    @pytest.mark.parametrize("off", [-TOLERANCE_S, -1, 0, TOLERANCE_S])
    async def test_within_the_tolerance(self, off: int) -> None:
        await Desk().check(signed(at=NOW + off))

    @pytest.mark.parametrize(
        ("off", "reason"),
        [
            (-TOLERANCE_S - 1, SignatureReason.EXPIRED),
            (-86_400, SignatureReason.EXPIRED),
            (TOLERANCE_S + 1, SignatureReason.NOT_YET),
            (10**10, SignatureReason.NOT_YET),
        ],
    )
    async def test_beyond_it(self, off: int, reason: SignatureReason) -> None:
        """Before anybody waits for the body or reckons with it."""
        desk = Desk()
        assert await desk.refused(signed(at=NOW + off)) is reason
        assert desk.bodies_read == 0

    def test_the_tolerance_is_the_contract_s(self) -> None:
        assert TOLERANCE_S == 300


class TestSignatures:
    async def test_by_nobody_s_key(self) -> None:
        desk = Desk()
        assert await desk.refused(signed(new_key())) is SignatureReason.SIGNATURE
        assert desk.memory.requests == {}  # who has no key uses up no id

    async def test_of_another_body(self) -> None:
        assert await Desk().refused(signed(), b"{}") is SignatureReason.SIGNATURE

    async def test_of_two_services_is_nobody_s(self) -> None:
        desk = Desk(f"{TILLS},billing:{KEYS['other']}")
        assert await desk.refused(signed(KEYS["old"], KEYS["other"])) is SignatureReason.SIGNATURE
        assert (await desk.check(signed(KEYS["other"]))).name == "service:billing"

    async def test_malformed(self) -> None:
        assert await Desk().refused(signed() | {"webhook-id": "a.b"}) is SignatureReason.MALFORMED

    async def test_what_takes_long_leaves_the_loop_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        threads = 0
        real = asyncio.to_thread

        async def counted(*args: object) -> object:
            nonlocal threads
            threads += 1
            return await real(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(asyncio, "to_thread", counted)
        desk = Desk("\n".join([TILLS, *(f"s{n}:{new_key()}" for n in range(15))]))
        large = b"x" * 65_536
        await desk.check(signed(), BODY)
        assert threads == 0
        await desk.check(headers_of(large, KEYS["old"], timestamp=int(NOW)), large)
        assert threads == 1


class TestOnce:
    async def test_a_replay_is_refused_at_every_replica(self) -> None:
        one = Desk()
        other = Desk(memory=one.memory)
        headers = signed()
        await one.check(headers)
        for desk in (one, other):
            assert await desk.refused(headers) is SignatureReason.REPLAY

    async def test_the_same_id_with_another_body_or_time(self) -> None:
        desk = Desk()
        await desk.check(signed(identity="m"))
        assert await desk.refused(signed(identity="m", at=NOW + 1)) is SignatureReason.REPLAY
        again = headers_of(b"{}", KEYS["old"], timestamp=int(NOW), identity="m")
        assert await desk.refused(again, b"{}") is SignatureReason.REPLAY

    async def test_of_many_at_once_one_gets_through(self) -> None:
        desk = Desk()
        headers = signed()
        answers = await asyncio.gather(*(desk.check(headers) for _ in range(20)), return_exceptions=True)
        assert sum(isinstance(answer, Principal) for answer in answers) == 1

    async def test_ids_are_each_service_s_own(self) -> None:
        desk = Desk(f"{TILLS},billing:{KEYS['other']}")
        await desk.check(signed(identity="m"))
        await desk.check(signed(KEYS["other"], identity="m"))
        assert len(desk.memory.requests) == 2

    async def test_a_key_that_takes_over_does_not_open_the_past(self) -> None:
        desk = Desk()
        await desk.check(signed(identity="m"))
        desk.signatures.replace(read_service_keys(f"tills:{KEYS['new']}"))
        assert await desk.refused(signed(KEYS["new"], identity="m")) is SignatureReason.REPLAY

    async def test_it_is_remembered_as_long_as_it_is_good(self) -> None:
        """One from the end of our future stays good for twice the tolerance, by clocks that differ."""
        desk = Desk()
        await desk.check(signed(at=NOW + TOLERANCE_S))
        assert set(desk.memory.requests.values()) == {REMEMBER_S}
        assert REMEMBER_S > 2 * TOLERANCE_S

    async def test_nothing_gets_through_while_nobody_remembers(self) -> None:
        desk = Desk()
        desk.memory.away = True
        with pytest.raises(ProtocolError) as raised:
            await desk.check(signed())
        assert raised.value.code is ErrorCode.UNAVAILABLE
        assert raised.value.retry_after_ms
        assert desk.counts() == {"unavailable": 1}
        assert desk.signatures.statistics()["gateway_signatures_accepted"] == 0


class TestRotation:
    async def test_two_keys_and_then_the_other(self) -> None:
        desk = Desk()
        old, new = KEYS["old"], KEYS["new"]
        assert await desk.refused(signed(new)) is SignatureReason.SIGNATURE
        desk.signatures.replace(read_service_keys(f"{TILLS},tills:{new}"))
        assert desk.signatures.statistics()["gateway_service_keys"] == 2
        for keys in ((old,), (new,), (old, new), (new, old)):
            assert (await desk.check(signed(*keys))).name == "service:tills"
        desk.signatures.replace(read_service_keys(TILLS.replace(old, new)))
        assert await desk.refused(signed(old)) is SignatureReason.SIGNATURE
        await desk.check(signed(new))
        await desk.check(signed(old, new))


class TestTheEnd:
    async def test_a_revoked_service(self) -> None:
        desk = Desk()
        until = NOW
        desk.revoked = lambda p: p.name == "service:tills" and (p.issued_at or 0) <= until
        principal = await Desk().check(signed())
        assert desk.signatures.is_void(principal)
        assert await desk.refused(signed(at=NOW + 200)) is SignatureReason.REVOKED
        assert desk.memory.requests == {}
        desk.now += 1  # what was issued until then was meant
        await desk.check(signed())

    @pytest.mark.parametrize(
        ("keys", "void"),
        [
            (TILLS, False),
            (TILLS.replace(KEYS["old"], KEYS["new"]), False),
            (f"{TILLS},tills:permission=inv:adjust", True),
            (TILLS.replace("vendor=V", "vendor=W"), True),
            (TILLS.replace("location=L1", "location=*"), True),
            (f"billing:{KEYS['other']}", True),
        ],
    )
    async def test_a_service_that_is_gone_or_is_another(self, keys: str, void: bool) -> None:
        """Its connections and tickets are of no use then: the scope they have is none any more."""
        desk = Desk()
        principal = await desk.check(signed())
        office = TicketOffice(desk.memory, is_revoked=desk.signatures.is_void, clock=lambda: NOW)
        ticket = await office.issue(principal)
        assert not desk.signatures.is_void(principal)
        desk.signatures.replace(read_service_keys(keys))
        assert desk.signatures.is_void(principal) is void
        if void:
            with pytest.raises(ProtocolError):
                await office.redeem(ticket.text)
        else:
            assert await office.redeem(ticket.text) == principal

    @pytest.mark.parametrize(
        ("name", "jti"), [("till", None), ("service:billing", None), ("service:billing", "j"), ("x", "x:1")]
    )
    def test_tokens_are_not_its_concern(self, name: str, jti: str | None) -> None:
        assert not Desk().signatures.is_void(Principal(name, frozenset(), jti=jti))


class TestWhatIsSaid:
    async def test_the_log_names_reason_and_service_now_and_then(self) -> None:
        desk = Desk()
        headers = signed()
        await desk.check(headers)
        with capture_logs() as lines:
            for _ in range(5):
                await desk.refused(headers)
                await desk.refused(signed(new_key()))
            desk.ticks += 10
            await desk.refused(headers)
        told = [(line["reason"], line["service"], line["times"]) for line in lines]
        assert told == [("replay", "tills", 1), ("signature", None, 1), ("replay", "tills", 5)]
        assert webhook_signature(KEYS["old"], headers["webhook-id"], int(NOW), BODY) not in str(lines)
