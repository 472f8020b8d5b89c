"""PROTOCOL.md section 5: GET /v1/products/{product_id}."""

import httpx
import pytest

from gateway.http.models import ProductAnswer
from gateway.http.ports import CachedSnapshot
from protocol.errors import ErrorCode, ProtocolError
from protocol.items import tombstone
from protocol.principal import Permission, Principal, View
from tests.support.http_shop import EXACT, PUBLIC, FakeSource, assert_problem, client, product, stock


@pytest.fixture
def source() -> FakeSource:
    return FakeSource(
        {
            "product:A": [
                stock("A", "L2", 3, version=4),
                product("A", version=2),
                stock("A", "L1", 4, version=3),
            ],
            "product:D": [product("D", status="draft"), stock("D", "L1", 9)],
            "product:S": [stock("S", "L1", 9)],
            "product:X": [tombstone("product:X", 8)],
        }
    )


async def get(
    source: FakeSource, path: str, principal: Principal | None = EXACT, **headers: str
) -> httpx.Response:
    async with client(source, principal) as http:
        return await http.get(path, headers={name.replace("_", "-"): v for name, v in headers.items()})


class TestExactView:
    async def test_product_availability_and_stock_by_location(self, source: FakeSource) -> None:
        answer = await get(source, "/v1/products/A")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        body = ProductAnswer.model_validate_json(answer.content)
        assert (body.product_id, body.view) == ("A", "exact")
        assert body.product is not None
        assert body.product.price_minor == 1299
        assert body.availability is not None
        assert (body.availability.status, body.availability.only_left) == ("in_stock", None)
        assert [(s.location_id, s.available) for s in body.stock or []] == [("L1", 4), ("L2", 3)]

    async def test_it_is_private(self, source: FakeSource) -> None:
        answer = await get(source, "/v1/products/A")
        assert answer.headers["cache-control"].startswith("private")
        assert "Authorization" in answer.headers["vary"]

    async def test_a_draft_is_shown_without_availability(self, source: FakeSource) -> None:
        body = (await get(source, "/v1/products/D")).json()
        assert body["product"]["status"] == "draft"
        assert body["availability"] is None

    async def test_stock_without_a_source_of_products(self, source: FakeSource) -> None:
        body = (await get(source, "/v1/products/S")).json()
        assert body["product"] is None
        assert len(body["stock"]) == 1


class TestPublicView:
    async def test_no_number_gets_out(self, source: FakeSource) -> None:
        answer = await get(source, "/v1/products/A", PUBLIC)
        body = answer.json()
        assert body["view"] == "public"
        assert body["availability"]["status"] == "in_stock"
        assert "stock" not in body
        assert b"on_hand" not in answer.content
        assert b'"available"' not in answer.content

    async def test_anybody_may_keep_it_for_a_second(self, source: FakeSource) -> None:
        answer = await get(source, "/v1/products/A", PUBLIC)
        assert answer.headers["cache-control"] == "public, max-age=1, stale-while-revalidate=10"

    async def test_a_draft_looks_like_a_missing_product(self, source: FakeSource) -> None:
        draft = assert_problem(await get(source, "/v1/products/D", PUBLIC), 404, "not_found")
        missing = assert_problem(await get(source, "/v1/products/E", PUBLIC), 404, "not_found")
        assert draft["detail"].replace(" D", " E") == missing["detail"]

    async def test_who_may_see_numbers_can_ask_for_less(self, source: FakeSource) -> None:
        answer = await get(source, "/v1/products/A?view=public")
        assert answer.json()["view"] == "public"
        assert answer.headers["cache-control"].startswith("public")

    async def test_who_may_not_can_not_ask_for_more(self, source: FakeSource) -> None:
        assert_problem(await get(source, "/v1/products/A?view=exact", PUBLIC), 403, "forbidden")

    async def test_a_view_that_does_not_exist(self, source: FakeSource) -> None:
        assert_problem(await get(source, "/v1/products/A?view=all"), 400, "bad_message")


class TestWhoSeesAPart:
    """A till at L1, of a product that is stocked elsewhere too."""

    TILL = Principal("till", frozenset(EXACT.permissions), vendor_id="V", locations=frozenset({"L1"}))
    ALONE = Principal("till", frozenset({Permission.READ_EXACT}), vendor_id="V", locations=frozenset({"L1"}))

    async def test_the_availability_is_the_one_that_all_may_see(self, source: FakeSource) -> None:
        source.topics["product:A"] = [
            product("A"),
            stock("A", "L1", 1),
            stock("A", "L2", 50, version=9),
        ]
        body = (await get(source, "/v1/products/A", self.TILL)).json()
        assert [row["location_id"] for row in body["stock"]] == ["L1"]
        assert body["availability"]["status"] == "in_stock"
        assert ("product:A", View.PUBLIC) in source._seen  # and none of its own making

    async def test_or_one_of_what_is_seen(self, source: FakeSource) -> None:
        source.topics["product:A"] = [product("A"), stock("A", "L1", 1), stock("A", "L2", 50)]
        body = (await get(source, "/v1/products/A", self.ALONE)).json()
        assert body["availability"]["only_left"] == 1

    @pytest.mark.parametrize(
        ("hit", "held", "told"), [(True, True, "HIT"), (False, True, "HIT"), (False, False, "MISS")]
    )
    @pytest.mark.parametrize("principal", [TILL, PUBLIC])
    async def test_a_change_of_the_rest_is_no_miss(
        self, source: FakeSource, principal: Principal, hit: bool, held: bool, told: str
    ) -> None:
        source.says = CachedSnapshot([product("A"), stock("A", "L1", 1)], hit, held)
        assert (await get(source, "/v1/products/A", principal)).headers["x-cache"] == told

    async def test_who_sees_all_is_told_of_every_one(self, source: FakeSource) -> None:
        source.says = CachedSnapshot([product("A"), stock("A", "L1", 1)], hit=False, held=True)
        assert (await get(source, "/v1/products/A", EXACT)).headers["x-cache"] == "MISS"


class TestAuthentication:
    async def test_nobody_gets_in_where_anonymous_is_off(self, source: FakeSource) -> None:
        answer = await get(source, "/v1/products/A", None)
        assert_problem(answer, 401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"

    async def test_a_token_that_can_not_be_checked_is_refused(self, source: FakeSource) -> None:
        assert_problem(await get(source, "/v1/products/A", authorization="Bearer x"), 401, "unauthenticated")

    async def test_credentials_meant_for_a_proxy_are_not_ours(self, source: FakeSource) -> None:
        answer = await get(source, "/v1/products/A", authorization="Basic dTpw")
        assert answer.status_code == 200


class TestMissing:
    @pytest.mark.parametrize("name", ["E", "X", "a%20b", "%C3%A9", "x" * 65])
    async def test_unknown_deleted_and_impossible_products(self, source: FakeSource, name: str) -> None:
        assert_problem(await get(source, f"/v1/products/{name}"), 404, "not_found")


class TestConditionalRequests:
    async def test_the_tag_is_strong_and_follows_the_content(self, source: FakeSource) -> None:
        first = await get(source, "/v1/products/A")
        again = await get(source, "/v1/products/A")
        assert first.headers["etag"].startswith('"')
        assert first.headers["etag"] == again.headers["etag"]
        source.topics["product:A"] = [product("A", version=2), stock("A", "L1", 1, version=9)]
        assert (await get(source, "/v1/products/A")).headers["etag"] != first.headers["etag"]

    async def test_the_views_have_different_tags(self, source: FakeSource) -> None:
        exact, public = await get(source, "/v1/products/A"), await get(source, "/v1/products/A", PUBLIC)
        assert exact.headers["etag"] != public.headers["etag"]

    @pytest.mark.parametrize("form", ["{0}", "W/{0}", '"other", {0}', "*"])
    async def test_not_modified(self, source: FakeSource, form: str) -> None:
        etag = (await get(source, "/v1/products/A")).headers["etag"]
        answer = await get(source, "/v1/products/A", if_none_match=form.format(etag))
        assert answer.status_code == 304
        assert answer.content == b""
        assert answer.headers["etag"] == etag
        assert answer.headers["cache-control"].startswith("private")

    async def test_modified(self, source: FakeSource) -> None:
        answer = await get(source, "/v1/products/A", if_none_match='"stale"')
        assert answer.status_code == 200

    async def test_the_cache_says_whether_it_had_it(self, source: FakeSource) -> None:
        assert (await get(source, "/v1/products/A")).headers["x-cache"] == "MISS"
        assert (await get(source, "/v1/products/A")).headers["x-cache"] == "HIT"

    async def test_head_is_get_without_the_body(self, source: FakeSource) -> None:
        async with client(source) as http:
            head, get_ = await http.head("/v1/products/A"), await http.get("/v1/products/A")
        assert head.content == b""
        assert head.headers["etag"] == get_.headers["etag"]


class TestTrouble:
    async def test_unavailable_says_when_to_come_back(self, source: FakeSource) -> None:
        source.error = ProtocolError(ErrorCode.UNAVAILABLE, "Postgres is away", retry_after_ms=1500)
        answer = await get(source, "/v1/products/A")
        body = assert_problem(answer, 503, "unavailable")
        assert answer.headers["retry-after"] == "2"
        assert body["retry_after_ms"] == 1500
        assert answer.headers["cache-control"] == "no-store"

    async def test_a_failure_of_ours_tells_nothing_inside(self, source: FakeSource) -> None:
        source.error = RuntimeError("secret inside")
        async with client(source, raise_errors=False) as http:
            answer = await http.get("/v1/products/A")
        assert_problem(answer, 500, "internal")
        assert b"secret" not in answer.content
