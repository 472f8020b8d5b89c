"""Answers that a client may keep and ask about again (RFC 9110 section 13, RFC 9111)."""

import hashlib
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

__all__ = ["conditional_response", "strong_etag"]


def strong_etag(body: bytes) -> str:
    """From the content alone, so that every replica gives the same tag to the same bytes."""
    return f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'


def conditional_response(
    request: Request, body: bytes, *, media_type: str, headers: Mapping[str, str], etag: str | None = None
) -> Response:
    """200 with the body, or 304 when `If-None-Match` names what the client has already."""
    etag = etag or strong_etag(body)
    all_headers = {**headers, "ETag": etag}
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=all_headers)
    return Response(body, headers=all_headers, media_type=media_type)


def _matches(if_none_match: str | None, etag: str) -> bool:
    # If-None-Match compares weakly: a W/ put there by a compressing proxy does not count (RFC 9110 13.1.2).
    if if_none_match is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or etag in tags
