"""gateway.http.limiting: every route of /v1 refuses, and says when to come back."""

import httpx
import pytest

from gateway.auth.authority import Authority
from gateway.auth.keys import KeyRing, secret_key
from gateway.auth.tickets import TicketOffice
from gateway.auth.tokens import TokenRules, TokenVerifier
from gateway.rates import RateKind, RateLimit, Rates
from protocol.principal import Principal
from tests.support.credentials import MemoryCredentials
from tests.support.http_shop import EXACT, FakeSource, assert_problem, client, product, stock
from tests.support.tokens import NOW, SECRET, claims, hs256

AUTHORITY = Authority(TokenVerifier(TokenRules(), KeyRing(secret_key(SECRET)), clock=lambda: NOW))
TOKEN = {"Authorization": f"Bearer {hs256(claims())}"}
ANOTHER = {"Authorization": f"Bearer {hs256(claims(sub='till-2'))}"}
BAD = {"Authorization": "Bearer x"}
ITEMS = [product("A"), stock("A", "L1", 4), product("B"), stock("B", "L1", 4)]
PATHS = ["/v1/products/A", "/v1/locations/L1/stock", "/v1/vendors/V/stock"]


def shop(rates: Rates, principal: Principal | None = EXACT) -> httpx.AsyncClient:
    source = FakeSource({"product:A": ITEMS[:2], "location:L1": ITEMS, "vendor:V": ITEMS})
    tickets = TicketOffice(MemoryCredentials(), is_revoked=lambda _: False)
    return client(source, principal, authority=AUTHORITY, tickets=tickets, rates=rates)


def limited(kind: RateKind, burst: float) -> Rates:
    return Rates({kind: RateLimit(0.5, burst)}, clock=lambda: 0.0)


def assert_refused(answer: httpx.Response, wait_s: int = 2) -> None:
    problem = assert_problem(answer, 429, "rate_limited")
    assert problem["retry_after_ms"] == 1000 * wait_s + 1
    assert answer.headers["retry-after"] == f"{wait_s + 1}"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", PATHS)
async def test_requests(path: str) -> None:
    async with shop(limited(RateKind.HTTP, 1)) as http:
        assert (await http.get(path)).is_success
        assert_refused(await http.get(path))
        assert (await http.get(path, headers=TOKEN)).is_success
        assert_refused(await http.get(path, headers=TOKEN))
        assert (await http.get(path, headers=ANOTHER)).is_success


async def test_operations() -> None:
    async with shop(limited(RateKind.HTTP, 1)) as http:
        assert_problem(await http.post("/v1/operations"), 503, "unavailable")
        assert_refused(await http.post("/v1/operations"))
        assert_refused(await http.get("/v1/operations/1"))


async def test_requests_of_who_may_not_ask_at_all() -> None:
    async with shop(limited(RateKind.HTTP, 1), principal=None) as http:
        assert_problem(await http.get(PATHS[0]), 401, "unauthenticated")
        assert_refused(await http.get(PATHS[0]))


@pytest.mark.parametrize("path", PATHS)
async def test_rows_are_paid_for_by_the_next_request(path: str) -> None:
    async with shop(limited(RateKind.ROWS, 1)) as http:
        assert (await http.get(path)).is_success
        rows = 2 if path == PATHS[0] else 4
        assert_refused(await http.get(PATHS[0]), 2 * (rows - 1))


async def test_tickets() -> None:
    async with shop(limited(RateKind.TICKETS, 1)) as http:
        assert (await http.post("/v1/tickets", headers=TOKEN)).status_code == 201
        assert_refused(await http.post("/v1/tickets", headers=TOKEN))
        assert (await http.post("/v1/tickets", headers=ANOTHER)).status_code == 201


async def test_bad_tokens_of_an_address_are_not_checked_for_ever() -> None:
    async with shop(limited(RateKind.AUTH, 1)) as http:
        for _ in range(2):
            assert_problem(await http.get(PATHS[0], headers=BAD), 401, "unauthenticated")
        assert_refused(await http.get(PATHS[0], headers=BAD))
        assert (await http.get(PATHS[0])).is_success  # as anybody


async def test_good_ones_cost_nothing_of_that() -> None:
    async with shop(limited(RateKind.AUTH, 1)) as http:
        for _ in range(5):
            assert (await http.get(PATHS[0], headers=TOKEN)).is_success
