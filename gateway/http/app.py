from collections.abc import Collection, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.http.cors import Cors
from gateway.http.credentials import Identification
from gateway.http.files import static_routes
from gateway.http.limiting import RequestLimits
from gateway.http.ports import Authority, SnapshotSource, Tickets
from gateway.http.problems import EXCEPTION_HANDLERS, problem
from gateway.http.shop import ShopApi
from gateway.http.tickets import TicketApi
from gateway.origins import OriginPolicy
from gateway.rates import Rates
from protocol.principal import Principal

__all__ = ["make_client_app"]


def make_client_app(
    source: SnapshotSource,
    *,
    principal: Principal | None,
    authority: Authority | None = None,
    tickets: Tickets | None = None,
    rates: Rates | None = None,
    low_stock: int,
    allowed_origins: Collection[str] = (),
    page: bool = False,
    page_settings: Mapping[str, Any] | None = None,
) -> Starlette:
    """Everything on the clients' port that is no WebSocket. `page`: also the demo page (`dev`).

    `page_settings` is the page's `/page.json`, as gateway/static/settings.js describes it. `rates`
    None: there are no limits.
    """
    files = static_routes(page_settings=page_settings or {} if page else None)
    limits = RequestLimits(rates or Rates({}))
    identify = Identification(principal, authority, limits=limits)
    api = ShopApi(source, identify=identify, limits=limits, low_stock=low_stock)
    office = TicketApi(tickets, identify=identify, limits=limits)
    app = Starlette(
        routes=[Route("/realtime", _upgrade_required), *api.routes(), *office.routes(), *files],
        middleware=[Middleware(Cors, policy=OriginPolicy(allowed_origins))],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    app.router.redirect_slashes = False
    return app


async def _upgrade_required(_: Request) -> Response:
    # No handshake comes here, but what a proxy that drops Upgrade leaves of one does (RFC 9110 15.5.22).
    headers = {"Upgrade": "websocket", "Connection": "Upgrade"}
    return problem(426, "upgrade_required", "this is a WebSocket: send an upgrade", headers=headers)
