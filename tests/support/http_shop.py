"""A shop in memory behind the HTTP API."""

from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from gateway.http.app import make_client_app
from gateway.http.ports import Authority, CachedSnapshot, Tickets
from gateway.rates import Rates
from protocol.items import Item, build_item
from protocol.principal import Principal, View
from protocol.public_view import PublicView
from protocol.topics import Topic

__all__ = ["EXACT", "PUBLIC", "FakeSource", "assert_problem", "client", "product", "stock"]

EXACT = Principal.anonymous(exact=True)
PUBLIC = Principal.anonymous(exact=False)


def stock(product: str, location: str, available: int, *, version: int = 1, **more: Any) -> Item:
    row = {
        "product_id": product,
        "location_id": location,
        "vendor_id": "V",
        "available": available,
        "on_hand": available,
        "reserved": 0,
        "damaged": 0,
        "safety_stock": 0,
        "incoming": 0,
        "low_stock_at": None,
        "updated_at": "2026-11-22T10:00:00.123456+00:00",
        **more,
    }
    return build_item("stock", row, version)


def product(product_id: str, *, version: int = 1, status: str = "published", vendor_id: str = "V") -> Item:
    row = {
        "product_id": product_id,
        "vendor_id": vendor_id,
        "sku": f"SKU-{product_id}",
        "name": f"Product {product_id}",
        "category": "tea",
        "price_minor": 1299,
        "currency": "USD",
        "status": status,
        "updated_at": "2026-11-22T10:00:00.123456+00:00",
    }
    return build_item("product", row, version)


class FakeSource:
    """Topics by name; the second time somebody asks for the same topic and view it is a hit."""

    def __init__(self, topics: Mapping[str, Sequence[Item]]) -> None:
        self.topics = dict(topics)
        self.error: Exception | None = None
        self._seen: set[tuple[str, View]] = set()

    async def snapshot(self, topic: Topic, view: View) -> CachedSnapshot:
        if self.error is not None:
            raise self.error
        hit = (str(topic), view) in self._seen
        self._seen.add((str(topic), view))
        items = list(self.topics.get(str(topic), ()))
        if view is View.PUBLIC:
            public = PublicView(topic, 5)
            public.load(items)
            items = public.snapshot()
        return CachedSnapshot(items, hit)


def client(
    source: FakeSource,
    principal: Principal | None = EXACT,
    *,
    authority: Authority | None = None,
    tickets: Tickets | None = None,
    rates: Rates | None = None,
    allowed_origins: Sequence[str] = (),
    page: bool = False,
    raise_errors: bool = True,
) -> httpx.AsyncClient:
    app = make_client_app(
        source,
        principal=principal,
        authority=authority,
        tickets=tickets,
        rates=rates,
        low_stock=5,
        allowed_origins=allowed_origins,
        page=page,
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=raise_errors)
    return httpx.AsyncClient(transport=transport, base_url="http://gateway.test")


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["code"] == code
    assert body["detail"]
    return body
