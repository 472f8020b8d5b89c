from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.http.problems import problem
from gateway.origins import OriginPolicy
from protocol.errors import ErrorCode

__all__ = ["Cors"]

_PREFLIGHT: Final = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, If-None-Match, Prefer",
    "Access-Control-Max-Age": "600",
}
_EXPOSED: Final = "ETag, Retry-After, X-Cache"


class Cors:
    """CORS (Fetch standard, section 3.2) for the origins the settings name; credentials are never cookies.

    A foreign origin is not told apart in the answer itself: its browser keeps the answer from the page.
    """

    def __init__(self, app: ASGIApp, *, policy: OriginPolicy) -> None:
        self._app = app
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        granted = self._grant(headers)
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await self._preflight(scope, receive, send, granted)
            return

        async def send_with_grant(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                if not self._policy.anybody:
                    answer.add_vary_header("Origin")
                for name, value in granted.items():
                    answer.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_grant)

    def _grant(self, headers: Headers) -> dict[str, str]:
        origin = headers.get("origin")
        if origin is None or not self._policy.allows(origin, headers.get("host")):
            return {}
        allowed = "*" if self._policy.anybody else origin
        return {"Access-Control-Allow-Origin": allowed, "Access-Control-Expose-Headers": _EXPOSED}

    async def _preflight(self, scope: Scope, receive: Receive, send: Send, granted: dict[str, str]) -> None:
        if granted:
            head = {**granted, **_PREFLIGHT, "Vary": "Origin"}
            await send(
                {
                    "type": "http.response.start",
                    "status": 204,
                    "headers": [(name.lower().encode(), value.encode()) for name, value in head.items()],
                }
            )
            await send({"type": "http.response.body", "body": b""})
            return
        refusal = problem(
            403,
            ErrorCode.FORBIDDEN,
            "this origin is not among GATEWAY_ALLOWED_ORIGINS",
            headers={"Vary": "Origin"},
        )
        await refusal(scope, receive, send)
