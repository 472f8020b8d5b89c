"""Tokens over HTTP: RFC 6750."""

from collections.abc import Mapping
from typing import ClassVar

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


class TestScopes:
    """What a token does not reach looks like what is not there."""

    ITEMS: ClassVar = {
        "product:A": [product("A"), stock("A", "L1", 4), stock("A", "L2", 9)],
        "product:F": [product("F", vendor_id="W"), stock("F", "L1", 4, vendor_id="W")],
        "location:L1": [
            product("A"),
            stock("A", "L1", 4),
            product("F", vendor_id="W"),
            stock("F", "L1", 4, vendor_id="W"),
        ],
        "vendor:V": [product("A"), stock("A", "L1", 4), stock("A", "L2", 9)],
    }

    async def get(self, path: str, **more: object) -> httpx.Response:
        async with client(FakeSource(self.ITEMS), None, authority=AUTHORITY) as http:
            return await http.get(path, headers=[bearer(hs256(claims(**more)))])

    async def test_stock_of_ones_own_locations(self) -> None:
        body = (await self.get("/v1/products/A")).json()
        assert [row["location_id"] for row in body["stock"]] == ["L1"]
        assert body["availability"]["status"] == "in_stock"  # of all locations: it is what the public sees
        body = (await self.get("/v1/products/A", permissions=["inv:read:exact"])).json()
        assert body["availability"] == body["availability"] | {"status": "low_stock", "only_left": 4}

    async def test_a_foreign_product_looks_like_a_missing_one(self) -> None:
        foreign = await self.get("/v1/products/F")
        missing = await self.get("/v1/products/G")
        assert (
            assert_problem(foreign, 404, "not_found")["detail"].replace("F", "G") == missing.json()["detail"]
        )
        assert len(foreign.content) == len(missing.content)
        assert dict(foreign.headers) == dict(missing.headers)

    async def test_pages(self) -> None:
        body = (await self.get("/v1/locations/L1/stock")).json()
        assert [row["product_id"] for row in body["items"]] == ["A"]
        assert [row["product_id"] for row in body["products"]] == ["A"]
        body = (await self.get("/v1/vendors/V/stock")).json()
        assert [row["location_id"] for row in body["items"]] == ["L1"]
        body = (await self.get("/v1/vendors/V/stock", locations="*")).json()
        assert [row["location_id"] for row in body["items"]] == ["L1", "L2"]
