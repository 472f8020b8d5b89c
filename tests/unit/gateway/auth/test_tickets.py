import pytest

from gateway.auth.errors import BadToken, Reason
from gateway.auth.tickets import TicketOffice
from protocol.errors import ErrorCode, ProtocolError
from protocol.principal import Principal
from tests.support.credentials import MemoryCredentials

NOW = 1_800_000_000.0
TILL = Principal(
    "till",
    frozenset({"inv:read:exact", "inv:adjust"}),
    vendor_id="V",
    locations=frozenset({"L1", "L2"}),
    expires_at=NOW + 60,
    issued_at=NOW - 1,
    jti="j",
)


@pytest.fixture
def store() -> MemoryCredentials:
    return MemoryCredentials()


async def refused(office: TicketOffice, ticket: str) -> Reason:
    with pytest.raises(BadToken) as raised:
        await office.redeem(ticket)
    assert len(ticket) < 9 or ticket not in str(raised.value)
    return raised.value.reason


@pytest.mark.parametrize(
    "principal", [TILL, Principal("service", frozenset(), vendor_id="*", locations=None, expires_at=NOW + 9)]
)
async def test_it_stands_for_the_token_once(store: MemoryCredentials, principal: Principal) -> None:
    office = TicketOffice(store, clock=lambda: NOW)
    ticket = await office.issue(principal)
    assert ticket.expires_in_s <= 30
    other_replica = TicketOffice(store, clock=lambda: NOW)
    assert await other_replica.redeem(ticket.text) == principal
    assert await refused(office, ticket.text) is Reason.KEY


async def test_who_can_read_the_store_can_not_use_it(store: MemoryCredentials) -> None:
    office = TicketOffice(store, clock=lambda: NOW)
    ticket = await office.issue(TILL)
    (held,) = store.tickets
    assert ticket.text not in held
    assert await refused(office, held) is Reason.KEY
    assert len({(await office.issue(TILL)).text for _ in range(100)}) == 100


@pytest.mark.parametrize("ticket", ["", "x", "A" * 43, "A" * 42 + "*", "A" * 5000, "a b", "\ud800" * 43])
async def test_no_ticket(store: MemoryCredentials, ticket: str) -> None:
    assert await refused(TicketOffice(store), ticket) is Reason.KEY
    assert store.asked == (1 if ticket == "A" * 43 else 0)


async def test_it_is_no_better_than_its_token(store: MemoryCredentials) -> None:
    now, revoked = [NOW], False
    office = TicketOffice(store, clock=lambda: now[0], is_revoked=lambda _: revoked)
    late, gone = [(await office.issue(TILL)).text for _ in range(2)]
    now[0] += 60
    assert await refused(office, late) is Reason.EXPIRED
    now[0] -= 60
    revoked = True
    assert await refused(office, gone) is Reason.REVOKED


async def test_a_store_that_is_away_is_not_the_clients_fault(store: MemoryCredentials) -> None:
    office = TicketOffice(store)
    store.away = True
    for attempt in (office.issue(TILL), office.redeem("A" * 43)):
        with pytest.raises(ProtocolError) as raised:
            await attempt
        assert raised.value.code is ErrorCode.UNAVAILABLE
