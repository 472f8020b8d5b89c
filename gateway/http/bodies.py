"""The body of a request: all of it, once, and no more than is allowed."""

import asyncio
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from protocol.errors import ErrorCode, ProtocolError

__all__ = ["MAX_BODY_BYTES", "read_body"]

MAX_BODY_BYTES: Final = 64 * 1024
# A body that has not come by then is not waited for, in s.
BODY_TIMEOUT_S: Final = 10.0


async def read_body(
    request: Request, *, max_bytes: int = MAX_BODY_BYTES, timeout_s: float = BODY_TIMEOUT_S
) -> bytes:
    """The raw bytes; whoever asks again gets the same ones.

    Raises ProtocolError `too_large`; HTTPException for one that does not come in time (408) or ends early.
    """
    held: bytes | None = getattr(request.state, "body", None)
    if held is not None:
        return held
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > max_bytes:
                    raise ProtocolError(ErrorCode.TOO_LARGE, f"a body has up to {max_bytes} bytes")
                parts.append(chunk)
    except TimeoutError:
        # Nobody knows where in the stream the next request would begin.
        close = {"Connection": "close"}
        raise HTTPException(408, f"the body did not come within {timeout_s:g} s", close) from None
    except ClientDisconnect:
        raise HTTPException(400, "the body ended early") from None
    body: bytes = b"".join(parts)
    request.state.body = body
    return body
