"""The outer form of a token: JWS compact serialization (RFC 7515 section 7.1), read strictly."""

import base64
import json
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, NoReturn

from gateway.auth.errors import BadToken, Reason

__all__ = ["MAX_TOKEN_BYTES", "CompactToken", "read_compact", "read_object"]

# What identity providers issue is about 1 KiB; each byte more is work that a stranger can ask for.
MAX_TOKEN_BYTES: Final = 8192
_FORM: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")


class CompactToken(NamedTuple):
    """A token whose header has been read and whose signature has not been looked at."""

    text: str
    algorithm: str
    key_id: str | None
    type: str | None
    payload: bytes


def read_compact(text: str) -> CompactToken:
    """Raises BadToken for anything that is no JWS, and for extensions (`crit`): we know of none."""
    if len(text) > MAX_TOKEN_BYTES:
        raise BadToken(Reason.MALFORMED, f"a token is up to {MAX_TOKEN_BYTES} bytes")
    form = _FORM.fullmatch(text)
    if form is None:
        raise BadToken(Reason.MALFORMED)
    header = read_object(_decode(form[1]))
    # RFC 7515 4.1.11: what is critical and not understood is refused. RFC 7797: `b64` changes what is signed.
    if "crit" in header or "b64" in header:
        raise BadToken(Reason.MALFORMED)
    algorithm = header.get("alg")
    if not isinstance(algorithm, str):
        raise BadToken(Reason.ALGORITHM)
    return CompactToken(text, algorithm, _text(header, "kid"), _text(header, "typ"), payload=_decode(form[2]))


def read_object(data: bytes) -> dict[str, Any]:
    """A JSON object without NaN, and without two members of one name (RFC 8725 2.4: parsers differ in which
    of them counts). Raises BadToken."""
    try:
        value = json.loads(data, object_pairs_hook=_without_duplicates, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise BadToken(Reason.MALFORMED) from None
    if not isinstance(value, dict):
        raise BadToken(Reason.MALFORMED)
    return value


def _decode(segment: str) -> bytes:
    try:
        return base64.b64decode(segment + "=" * (-len(segment) % 4), b"-_", validate=True)
    except ValueError:
        raise BadToken(Reason.MALFORMED) from None


def _text(header: dict[str, Any], name: str) -> str | None:
    value = header.get(name)
    if value is not None and not isinstance(value, str):
        raise BadToken(Reason.MALFORMED)
    return value


def _without_duplicates(members: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        raise ValueError("a member twice")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
