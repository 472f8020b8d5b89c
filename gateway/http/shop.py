"""`/v1`: the same snapshots the WebSocket clients get, over HTTP."""

import asyncio
from collections.abc import Iterable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.http.conditional import conditional_response
from gateway.http.credentials import Identification
from gateway.http.limiting import RequestLimits
from gateway.http.paging import Page, cut_page, parse_cursor, parse_limit
from gateway.http.ports import CachedSnapshot, SnapshotSource
from protocol.errors import ErrorCode, ProtocolError
from protocol.items import Item
from protocol.principal import Principal, View
from protocol.public_view import PublicView
from protocol.scoped_view import shown
from protocol.topics import Topic, TopicKind, is_key

__all__ = ["ShopApi"]

_CACHE_CONTROL: Final = {
    View.PUBLIC: "public, max-age=1, stale-while-revalidate=10",
    View.EXACT: "private, no-cache",
}
# Above this, looking through a topic would hold up the event loop for more than about 2 ms.
_INLINE_ITEMS: Final = 10_000
_NOT_BUILT_RETRY_MS: Final = 3_600_000


class ShopApi:
    def __init__(
        self, source: SnapshotSource, *, identify: Identification, limits: RequestLimits, low_stock: int
    ) -> None:
        self._source = source
        self._identify = identify
        self._limits = limits
        self._low_stock = low_stock

    def routes(self) -> list[Route]:
        return [
            Route("/v1/products/{id}", self.product),
            Route("/v1/locations/{id}/stock", self.location_stock),
            Route("/v1/vendors/{id}/stock", self.vendor_stock),
            Route("/v1/operations", self.operations, methods=["POST"]),
            Route("/v1/operations/{id}", self.operations),
        ]

    async def product(self, request: Request) -> Response:
        topic, view, principal = await self._authorize(request, TopicKind.PRODUCT)
        snapshot = await self._source.snapshot(topic, view)
        scope = principal.scope_for(topic, view)
        seen = snapshot.items if scope is None else shown(scope, snapshot.items)
        live = [item for item in seen if not item.deleted]
        if not live:
            raise ProtocolError(ErrorCode.NOT_FOUND, f"there is no product {topic.id}")
        # Who may see the public view sees the availability of that; else one of what is seen here.
        counted = snapshot.items if principal.may_public else seen
        self._limits.rows(request, principal, len(live))
        told = live if view is View.PUBLIC else [*live, *self._availability(topic, counted)]
        parts = [
            b'"product_id":"%s"' % topic.id.encode(),
            b'"view":"%s"' % view.encode(),
            b'"product":' + _first(told, "product:"),
            b'"availability":' + _first(told, "availability:"),
        ]
        if view is View.EXACT:
            parts.append(b'"stock":' + _array(sorted(i for i in live if i.key.startswith("stock:"))))
        return self._answer(request, view, snapshot, parts)

    async def location_stock(self, request: Request) -> Response:
        return await self._page(request, TopicKind.LOCATION)

    async def vendor_stock(self, request: Request) -> Response:
        return await self._page(request, TopicKind.VENDOR)

    async def operations(self, request: Request) -> Response:
        self._limits.request(request, None)
        raise ProtocolError(
            ErrorCode.UNAVAILABLE,
            "this version of the gateway takes no operations; change the stock in the database",
            retry_after_ms=_NOT_BUILT_RETRY_MS,
        )

    async def _page(self, request: Request, kind: TopicKind) -> Response:
        topic, view, principal = await self._authorize(request, kind)
        limit = parse_limit(request.query_params.get("limit"))
        after = parse_cursor(request.query_params.get("cursor"))
        snapshot = await self._source.snapshot(topic, view)
        rows = "stock" if view is View.EXACT else "availability"
        scope = principal.scope_for(topic, view)

        def cut() -> Page:
            seen = snapshot.items if scope is None else shown(scope, snapshot.items)
            return cut_page(seen, rows, after, limit)

        large = len(snapshot.items) > _INLINE_ITEMS
        page = await asyncio.to_thread(cut) if large else cut()
        self._limits.rows(request, principal, len(page.rows) + len(page.products))
        cursor = b"null" if page.next_cursor is None else b'"%s"' % page.next_cursor.encode()
        parts = [
            b'"%s_id":"%s"' % (kind.encode(), topic.id.encode()),
            b'"view":"%s"' % view.encode(),
            b'"items":' + _array(page.rows),
            b'"products":' + _array(page.products),
            b'"next_cursor":' + cursor,
        ]
        return self._answer(request, view, snapshot, parts)

    async def _authorize(self, request: Request, kind: TopicKind) -> tuple[Topic, View, Principal]:
        principal = await self._identify(request)
        name = request.path_params["id"]
        if not is_key(name):
            raise ProtocolError(ErrorCode.NOT_FOUND, f"an id of a {kind} is 1 to 64 of A-Z a-z 0-9 . _ -")
        asked = request.query_params.get("view")
        if asked is not None and asked not in list(View):
            raise ProtocolError(ErrorCode.BAD_MESSAGE, "view is exact or public")
        topic = Topic(kind, name)
        view = principal.view_for(topic, None if asked is None else View(asked))
        self._limits.more_rows(request, principal)
        return topic, view, principal

    def _availability(self, topic: Topic, items: Iterable[Item]) -> list[Item]:
        public = PublicView(topic, self._low_stock)
        public.load(items)
        return [item for item in public.snapshot() if item.key.startswith("availability:")]

    def _answer(
        self, request: Request, view: View, snapshot: CachedSnapshot, parts: Iterable[bytes]
    ) -> Response:
        headers = {
            "Cache-Control": _CACHE_CONTROL[view],
            "Vary": "Authorization",
            "X-Cache": "HIT" if snapshot.hit else "MISS",
            "X-Content-Type-Options": "nosniff",
        }
        body = b"{" + b",".join(parts) + b"}"
        return conditional_response(request, body, media_type="application/json", headers=headers)


def _array(items: Iterable[Item]) -> bytes:
    return b"[" + b",".join(item.body for item in items) + b"]"


def _first(items: Iterable[Item], prefix: str) -> bytes:
    return next((item.body for item in items if item.key.startswith(prefix) and not item.deleted), b"null")
