"""Tokens over HTTP: RFC 6750."""

from collections.abc import Mapping

import httpx
import pytest

from gateway.auth.authority import Authority
from gateway.auth.keys import KeyRing, secret_key
from gateway.auth.tokens import TokenRules, TokenVerifier
from protocol.principal import Principal
from tests.support.http_shop import PUBLIC, FakeSource, assert_problem, client, product, stock
from tests.support.tokens import NOW, SECRET, claims, hs256

AUTHORITY = Authority(TokenVerifier(TokenRules(), KeyRing(secret_key(SECRET)), clock=lambda: NOW))
TOKEN = hs256(claims())


async def get(
    path: str, *headers: tuple[str, str], principal: Principal | None = PUBLIC, tokens: bool = True
) -> httpx.Response:
    source = FakeSource({"product:A": [product("A"), stock("A", "L1", 4)]})
    async with client(source, principal, authority=AUTHORITY if tokens else None) as http:
        return await http.get(path, headers=list(headers))


def bearer(token: str, scheme: str = "Bearer") -> tuple[str, str]:
    return ("Authorization", f"{scheme} {token}")


@pytest.mark.parametrize("principal", [PUBLIC, None])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_token_says_what_may_be_seen(principal: Principal | None, scheme: str) -> None:
    answer = await get("/v1/products/A", bearer(TOKEN, scheme), principal=principal)
    assert answer.json()["view"] == "exact"
    assert answer.headers["cache-control"].startswith("private")


async def test_none_is_anonymous_where_that_is_allowed() -> None:
    assert (await get("/v1/products/A")).json()["view"] == "public"
    assert_problem(await get("/v1/products/A", principal=None), 401, "unauthenticated")


BAD: Mapping[str, tuple[str, str]] = {
    "expired": (hs256(claims(exp=NOW - 60)), "token_expired"),
    "forged": (hs256(claims(), secret=b"x" * 32), "unauthenticated"),
    "no token": ("x", "unauthenticated"),
    "empty": ("", "unauthenticated"),
}


@pytest.mark.parametrize("bad", BAD)
async def test_a_bad_one_is_never_ignored(bad: str) -> None:
    token, code = BAD[bad]
    answer = await get("/v1/products/A", bearer(token))
    assert_problem(answer, 401, code)
    assert answer.headers["www-authenticate"] == "Bearer"
    assert not token or token not in answer.text


async def test_two_of_them_are_none() -> None:
    assert_problem(await get("/v1/products/A", bearer(TOKEN), bearer(TOKEN)), 401, "unauthenticated")


async def test_where_there_are_no_tokens() -> None:
    assert_problem(await get("/v1/products/A", bearer(TOKEN), tokens=False), 401, "unauthenticated")


async def test_what_the_token_does_not_allow() -> None:
    shopper = bearer(hs256(claims(permissions=["inv:read:public"], vendor_id=None)))
    assert (await get("/v1/products/A", shopper)).json()["view"] == "public"
    assert_problem(await get("/v1/products/A?view=exact", shopper), 403, "forbidden")
    assert_problem(await get("/v1/vendors/W/stock", bearer(TOKEN)), 403, "forbidden")
    assert_problem(await get("/v1/locations/L2/stock?view=exact", bearer(TOKEN)), 403, "forbidden")
