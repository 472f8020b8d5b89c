"""Tokens of our own making, for development: signed with the shared secret."""

import secrets
import time
from collections.abc import Sequence
from typing import Any

from joserfc import jwt

from gateway.auth.claims import USUAL_NAMES, ClaimNames, steps
from gateway.auth.keys import secret_key
from protocol.principal import EVERY

__all__ = ["mint_token"]


def mint_token(
    secret: str,
    *,
    subject: str,
    vendor: str | None = None,
    locations: Sequence[str] = (),
    permissions: Sequence[str] = (),
    ttl_s: float,
    issuer: str | None = None,
    audience: str | None = None,
    token_type: str | None = None,
    names: ClaimNames = USUAL_NAMES,
    now: float | None = None,
) -> str:
    """A location `*` stands for all of them. Raises ValueError for a secret that is too short."""
    now = time.time() if now is None else now
    claims: dict[str, Any] = {"iat": int(now), "exp": int(now + ttl_s), "jti": secrets.token_urlsafe(12)}
    if issuer is not None:
        claims["iss"] = issuer
    if audience is not None:
        claims["aud"] = audience
    _put(claims, names.subject, subject)
    _put(claims, names.permissions, list(permissions))
    if vendor is not None:
        _put(claims, names.vendor, vendor)
    if locations:
        _put(claims, names.locations, EVERY if EVERY in locations else list(locations))
    header = {"alg": "HS256", "typ": token_type or "JWT"}
    return jwt.encode(header, claims, secret_key(secret).key)


def _put(claims: dict[str, Any], name: str, value: Any) -> None:
    """The other way round of claims._find."""
    if not name.startswith("/"):
        claims[name] = value
        return
    *way, last = steps(name)
    for step in way:
        claims = claims.setdefault(step, {})
    claims[last] = value
