"""The operator's port: is the process alive, should it get clients, what does it count."""

from collections.abc import Awaitable, Callable, Mapping

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.http.ports import Readiness
from gateway.http.problems import EXCEPTION_HANDLERS
from gateway.metrics import CONTENT_TYPE

__all__ = ["make_ops_app", "make_ops_app_of"]

_NO_STORE: Mapping[str, str] = {"Cache-Control": "no-store"}


def make_ops_app(readiness: Readiness, render_metrics: Callable[[], bytes]) -> Starlette:
    """`/healthz`, `/readyz` and `/metrics` of this process. `render_metrics` gives the Prometheus text."""

    async def not_ready() -> tuple[bool, list[str]]:
        reasons = list(readiness.not_ready())
        return not reasons, reasons

    async def metrics() -> bytes:
        return render_metrics()

    return make_ops_app_of(not_ready, metrics)


def make_ops_app_of(
    readiness: Callable[[], Awaitable[tuple[bool, list[str]]]], metrics: Callable[[], Awaitable[bytes]]
) -> Starlette:
    """The same for who has to ask others first; readiness comes as (ready, reasons)."""

    async def healthz(_: Request) -> Response:
        # Nothing is looked at: a process that answers lives, and restarting it would not mend a server.
        return JSONResponse({"status": "ok"}, headers=_NO_STORE)

    async def readyz(_: Request) -> Response:
        ready, reasons = await readiness()
        headers = _NO_STORE if ready else {**_NO_STORE, "Retry-After": "1"}
        return JSONResponse({"ready": ready, "reasons": reasons}, 200 if ready else 503, headers=headers)

    async def exposition(_: Request) -> Response:
        return Response(await metrics(), headers={"Content-Type": CONTENT_TYPE})

    routes = [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", exposition)]
    app = Starlette(routes=routes, exception_handlers=EXCEPTION_HANDLERS)
    app.router.redirect_slashes = False
    return app
