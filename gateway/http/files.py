"""The browser client and the demo page, read once and served from memory."""

from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Final, NamedTuple

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.http.conditional import conditional_response, strong_etag

__all__ = ["CLIENT_FILES", "static_routes"]

CLIENT_FILES: Final = frozenset({"client.js", "client.d.ts"})

_TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".ts": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}

# ws: and wss: because not every browser counts a WebSocket to the page's own host as 'self'.
_CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self' ws: wss:; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS: Final = {
    # A new version is used at once: every load asks, and is mostly answered by 304.
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
# A page of any site may import the client: it is no secret and carries no credentials.
_SHARED: Final = {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}


class _File(NamedTuple):
    body: bytes
    etag: str
    media_type: str
    headers: Mapping[str, str]


def static_routes(
    *, page_settings: Mapping[str, Any] | None, directory: Traversable | None = None
) -> list[Route]:
    """Routes of the browser client; with `page_settings` also of the demo page and all that belongs to it."""
    page = page_settings is not None
    directory = directory or files("gateway") / "static"
    routes = [
        _route(f"/{entry.name}", _read(entry))
        for entry in sorted(directory.iterdir(), key=lambda entry: entry.name)
        if entry.is_file() and _suffix(entry.name) in _TYPES and (page or entry.name in CLIENT_FILES)
    ]
    if page:
        body = orjson.dumps(page_settings)
        routes.append(_route("/page.json", _File(body, strong_etag(body), _TYPES[".json"], _HEADERS)))
        routes.append(_route("/", _read(directory / "index.html")))
    return routes


def _suffix(name: str) -> str:
    return name[name.rindex(".") :] if "." in name else ""


def _read(entry: Traversable) -> _File:
    body = entry.read_bytes()
    headers = dict(_HEADERS)
    if entry.name in CLIENT_FILES:
        headers |= _SHARED
    if entry.name.endswith(".html"):
        headers["Content-Security-Policy"] = _CSP
    return _File(body, strong_etag(body), _TYPES[_suffix(entry.name)], headers)


def _route(path: str, file: _File) -> Route:
    async def serve(request: Request) -> Response:
        return conditional_response(
            request, file.body, media_type=file.media_type, headers=file.headers, etag=file.etag
        )

    return Route(path, serve)
