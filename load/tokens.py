"""Tokens of a development secret for clients of the benchmark, each another subject's."""

import base64
import hashlib
import hmac
import itertools
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

__all__ = ["SECRET", "TTL_S", "hs256", "subjects"]

SECRET: Final = "secret-of-the-benchmark-32-bytes"  # the least that is allowed
TTL_S: Final = 3600
_HEADER: Final = {"alg": "HS256", "typ": "JWT"}


def hs256(claims: Mapping[str, Any], secret: str = SECRET) -> str:
    """A JWT in compact form (RFC 7515, 7.1)."""
    unsigned = ".".join(_base64url(orjson.dumps(part)) for part in (_HEADER, claims))
    signature = hmac.digest(secret.encode(), unsigned.encode(), hashlib.sha256)
    return f"{unsigned}.{_base64url(signature)}"


def subjects(**claims: Any) -> Iterator[str]:
    """Tokens without end that have these claims and differ in who they are for."""
    now = int(time.time())
    for number in itertools.count():
        who = {"sub": f"till-{number}", "jti": f"token-{number}", "iat": now, "exp": now + TTL_S}
        yield hs256(who | claims)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
