"""Errors as RFC 9457 problem documents."""

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ExceptionHandler

from protocol.errors import ErrorCode, ProtocolError

__all__ = ["EXCEPTION_HANDLERS", "MEDIA_TYPE", "STATUSES", "problem"]

MEDIA_TYPE: Final = "application/problem+json"

STATUSES: Final[Mapping[ErrorCode, HTTPStatus]] = {
    ErrorCode.BAD_MESSAGE: HTTPStatus.BAD_REQUEST,
    ErrorCode.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ErrorCode.UNKNOWN_TYPE: HTTPStatus.BAD_REQUEST,
    ErrorCode.UNKNOWN_TOPIC: HTTPStatus.NOT_FOUND,
    ErrorCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorCode.FORBIDDEN: HTTPStatus.FORBIDDEN,
    ErrorCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    ErrorCode.TOKEN_EXPIRED: HTTPStatus.UNAUTHORIZED,
    ErrorCode.RATE_LIMITED: HTTPStatus.TOO_MANY_REQUESTS,
    ErrorCode.TOO_MANY_TOPICS: HTTPStatus.BAD_REQUEST,
    ErrorCode.TOPIC_TOO_LARGE: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.CONFLICT: HTTPStatus.CONFLICT,
    ErrorCode.INSUFFICIENT_STOCK: HTTPStatus.CONFLICT,
    ErrorCode.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
}

DEFAULT_RETRY_MS: Final = 1000


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    retry_after_ms: int | None = None,
) -> Response:
    """The document; `code` is the contract's name of the error. 429 and 503 always carry Retry-After."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
    }
    all_headers = {"Cache-Control": "no-store", **(headers or {})}
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        body["retry_after_ms"] = retry_after_ms or DEFAULT_RETRY_MS
        all_headers["Retry-After"] = str(math.ceil(body["retry_after_ms"] / 1000))
    if status == HTTPStatus.UNAUTHORIZED:
        all_headers["WWW-Authenticate"] = "Bearer"
    return Response(orjson.dumps(body), status, all_headers, MEDIA_TYPE)


async def _protocol_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ProtocolError)  # noqa: S101 - the table below registers it for nothing else
    status = STATUSES[error.code]
    return problem(status, error.code, error.message, retry_after_ms=error.retry_after_ms)


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - as above
    if error.status_code == HTTPStatus.NOT_FOUND:
        return problem(404, ErrorCode.NOT_FOUND, "there is nothing at this path")
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{request.method} is not possible here; see the Allow header"
        return problem(405, "method_not_allowed", detail, headers=error.headers)
    return problem(error.status_code, ErrorCode.BAD_MESSAGE, error.detail, headers=error.headers)


async def _unexpected(_: Request, __: Exception) -> Response:
    # Starlette raises the exception again after this answer, so that the server logs it.
    return problem(500, ErrorCode.INTERNAL, "the gateway failed; its log says why")


EXCEPTION_HANDLERS: Final[dict[type[Exception], ExceptionHandler]] = {
    ProtocolError: _protocol_error,
    HTTPException: _http_exception,
    Exception: _unexpected,
}
