"""PROTOCOL.md section 5: pages of a location's and a vendor's stock."""

import httpx
import pytest

from gateway.http.models import PageOfStock
from gateway.http.paging import cut_page, parse_cursor
from protocol.errors import ErrorCode, ProtocolError
from protocol.items import Item, tombstone
from protocol.principal import Principal
from tests.support.http_shop import EXACT, PUBLIC, FakeSource, assert_problem, client, product, stock

NAMES = [f"P{number:03d}" for number in range(250)]


def location(names: list[str]) -> list[Item]:
    items = [stock(name, "L1", 7) for name in names] + [product(name) for name in names]
    return [*reversed(items), product("NOWHERE"), tombstone("stock:GONE:L1", 3)]


@pytest.fixture
def source() -> FakeSource:
    return FakeSource(
        {
            "location:L1": location(NAMES),
            "vendor:V": [stock("A", "L2", 1), stock("A", "L1", 2), stock("B", "L1", 3), product("A")],
        }
    )


async def get(source: FakeSource, path: str, principal: Principal | None = EXACT) -> httpx.Response:
    async with client(source, principal) as http:
        return await http.get(path)


class TestPages:
    async def test_every_row_once_in_order_with_its_product(self, source: FakeSource) -> None:
        seen: list[str] = []
        cursor = ""
        for _ in range(10):
            answer = await get(source, f"/v1/locations/L1/stock?limit=60&cursor={cursor}")
            page = PageOfStock.model_validate_json(answer.content)
            assert [p.product_id for p in page.products] == [i.product_id for i in page.items]
            seen += [item.product_id for item in page.items]
            if page.next_cursor is None:
                break
            cursor = page.next_cursor
        assert seen == NAMES

    async def test_a_hundred_rows_unless_asked_otherwise(self, source: FakeSource) -> None:
        body = (await get(source, "/v1/locations/L1/stock")).json()
        assert len(body["items"]) == 100
        assert body["location_id"] == "L1"
        assert body["view"] == "exact"

    async def test_rows_that_come_and_go_move_no_other(self, source: FakeSource) -> None:
        first = (await get(source, "/v1/locations/L1/stock?limit=3")).json()
        source.topics["location:L1"] = location(["P0001", *NAMES[1:]])
        second = (await get(source, f"/v1/locations/L1/stock?limit=2&cursor={first['next_cursor']}")).json()
        assert [item["product_id"] for item in second["items"]] == ["P003", "P004"]

    async def test_a_location_nobody_has_rows_for_is_empty(self, source: FakeSource) -> None:
        body = (await get(source, "/v1/locations/L9/stock")).json()
        assert body["items"] == []
        assert body["next_cursor"] is None

    async def test_a_vendor_by_product_and_location(self, source: FakeSource) -> None:
        body = (await get(source, "/v1/vendors/V/stock?limit=2")).json()
        assert body["vendor_id"] == "V"
        assert [(i["product_id"], i["location_id"]) for i in body["items"]] == [("A", "L1"), ("A", "L2")]
        assert [p["product_id"] for p in body["products"]] == ["A"]
        rest = (await get(source, f"/v1/vendors/V/stock?cursor={body['next_cursor']}")).json()
        assert [(i["product_id"], i["location_id"]) for i in rest["items"]] == [("B", "L1")]

    async def test_a_large_topic_is_cut_beside_the_event_loop(
        self, source: FakeSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gateway.http.shop._INLINE_ITEMS", 10)
        body = (await get(source, "/v1/locations/L1/stock?limit=1")).json()
        assert body["items"][0]["product_id"] == "P000"

    async def test_pages_have_tags_of_their_own(self, source: FakeSource) -> None:
        first = await get(source, "/v1/locations/L1/stock?limit=1")
        second = await get(source, "/v1/locations/L1/stock?limit=2")
        assert first.headers["etag"] != second.headers["etag"]


class TestPublicView:
    async def test_words_instead_of_numbers(self, source: FakeSource) -> None:
        answer = await get(source, "/v1/locations/L1/stock?limit=2", PUBLIC)
        page = PageOfStock.model_validate_json(answer.content)
        assert page.view == "public"
        assert [item.kind for item in page.items] == ["availability", "availability"]
        assert answer.headers["cache-control"].startswith("public, max-age=1")
        assert b"on_hand" not in answer.content

    async def test_a_vendor_has_none(self, source: FakeSource) -> None:
        assert_problem(await get(source, "/v1/vendors/V/stock", PUBLIC), 403, "forbidden")
        assert_problem(await get(source, "/v1/vendors/V/stock?view=public"), 403, "forbidden")

    async def test_nobody_where_anonymous_is_off(self, source: FakeSource) -> None:
        assert_problem(await get(source, "/v1/locations/L1/stock", None), 401, "unauthenticated")


class TestParameters:
    @pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "1.5", "", "99999999999999999999", "\u0661"])
    async def test_a_bad_limit(self, source: FakeSource, limit: str) -> None:
        assert_problem(await get(source, f"/v1/locations/L1/stock?limit={limit}"), 400, "bad_message")

    @pytest.mark.parametrize("cursor", ["x", "%00", "....", "LS0tLzov", "4pi6", "QTpMOm0"])
    async def test_a_bad_cursor(self, source: FakeSource, cursor: str) -> None:
        assert_problem(await get(source, f"/v1/locations/L1/stock?cursor={cursor}"), 400, "bad_message")

    def test_the_cursor_is_safe_in_a_url(self) -> None:
        page = cut_page([stock("A_-.z", "L~1".replace("~", "_"), 1), stock("B", "L1", 1)], "stock", "", 1)
        assert page.next_cursor is not None
        assert page.next_cursor.isascii()
        assert not set(page.next_cursor) & set("+/=")
        assert parse_cursor(page.next_cursor) == "A_-.z:L_1"

    async def test_an_impossible_location(self, source: FakeSource) -> None:
        assert_problem(await get(source, "/v1/locations/a%2Fb/stock"), 404, "not_found")
        assert_problem(await get(source, "/v1/locations/a:b/stock"), 404, "not_found")


class TestTrouble:
    async def test_a_topic_above_the_limit(self, source: FakeSource) -> None:
        source.error = ProtocolError(ErrorCode.TOPIC_TOO_LARGE, "subscribe to something smaller")
        assert_problem(await get(source, "/v1/locations/L1/stock"), 422, "topic_too_large")
