"""The operator's port: is the process alive, should it get clients, what does it count."""

from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.http.ports import Readiness
from gateway.http.problems import EXCEPTION_HANDLERS
from gateway.metrics import CONTENT_TYPE

__all__ = ["make_ops_app"]


def make_ops_app(readiness: Readiness, render_metrics: Callable[[], bytes]) -> Starlette:
    """`/healthz`, `/readyz` and `/metrics`. `render_metrics` gives the Prometheus text."""

    async def healthz(_: Request) -> Response:
        # Nothing is looked at: a process that answers lives, and restarting it would not mend a server.
        return JSONResponse({"status": "ok"}, headers={"Cache-Control": "no-store"})

    async def readyz(_: Request) -> Response:
        reasons = list(readiness.not_ready())
        headers = {"Cache-Control": "no-store"} | ({"Retry-After": "1"} if reasons else {})
        body = {"ready": not reasons, "reasons": reasons}
        return JSONResponse(body, 503 if reasons else 200, headers=headers)

    async def metrics(_: Request) -> Response:
        return Response(render_metrics(), headers={"Content-Type": CONTENT_TYPE})

    routes = [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]
    app = Starlette(routes=routes, exception_handlers=EXCEPTION_HANDLERS)
    app.router.redirect_slashes = False
    return app
