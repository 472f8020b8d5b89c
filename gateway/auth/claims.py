"""From the claims of a token to a principal."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from gateway.auth.errors import BadToken, Reason
from protocol.principal import EVERY, Permission, Principal
from protocol.topics import is_key

__all__ = ["USUAL_NAMES", "ClaimNames", "make_principal", "moment", "steps"]

MAX_SUBJECT: Final = 255
MAX_LOCATIONS: Final = 1000
_FEW: Final = 16  # so many are what many tokens have alike
# Of datetime, in seconds since 1970: a token that is good for longer is good until then.
_END_OF_TIME: Final = 253_402_300_799
_PERMISSIONS: Final = frozenset(str(permission) for permission in Permission)


@dataclass(frozen=True, slots=True)
class ClaimNames:
    """Where a provider keeps what we ask for: the name of a claim, or a path like /realm/roles into it."""

    subject: str = "sub"
    vendor: str = "vendor_id"
    locations: str = "locations"
    permissions: str = "permissions"


USUAL_NAMES: Final = ClaimNames()


def make_principal(claims: Mapping[str, Any], names: ClaimNames) -> Principal:
    """Raises BadToken for a claim of another kind than is expected: half a scope would be a guess."""
    subject = _find(claims, names.subject)
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT or not subject.isprintable():
        raise _wrong(names.subject, f"is needed, a text of up to {MAX_SUBJECT} characters")
    jti = claims.get("jti")
    if jti is not None and not isinstance(jti, str):
        raise _wrong("jti", "is a text")
    return Principal(
        subject,
        _permissions(_find(claims, names.permissions), names.permissions),
        vendor_id=_vendor(_find(claims, names.vendor), names.vendor),
        locations=_locations(_find(claims, names.locations), names.locations),
        expires_at=min(moment(claims, "exp") or 0.0, _END_OF_TIME),
        issued_at=moment(claims, "iat"),
        jti=jti,
    )


def moment(claims: Mapping[str, Any], name: str) -> float | None:
    """A time in s since 1970 (NumericDate, RFC 7519 section 2); None: there is none. Raises BadToken."""
    value = claims.get(name)
    if value is None:
        return None
    # Of an integer too large for a float even the question whether it is finite fails.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**53:
        raise _wrong(name, "is a number of seconds since 1970")
    if not math.isfinite(value):
        raise _wrong(name, "is a number of seconds since 1970")
    return float(value)


def _find(claims: Mapping[str, Any], name: str) -> Any:
    if not name.startswith("/"):
        return claims.get(name)
    found: Any = claims
    for step in steps(name):
        found = found.get(step) if isinstance(found, dict) else None
    return found


def steps(path: str) -> list[str]:
    """Of a JSON pointer (RFC 6901)."""
    return [step.replace("~1", "/").replace("~0", "~") for step in path[1:].split("/")]


def _permissions(value: Any, name: str) -> frozenset[str]:
    """A list, or as in an OAuth `scope` a text with spaces in between. Those of others are passed over."""
    if value is None:
        return frozenset()
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, list) or not all(isinstance(permission, str) for permission in value):
        raise _wrong(name, "is a list of texts, or one text with spaces in between")
    return _shared(frozenset(permission for permission in _PERMISSIONS if permission in value))


def _vendor(value: Any, name: str) -> str | None:
    if value is None or value == EVERY:
        return None if value is None else EVERY
    if not isinstance(value, str) or not is_key(value):
        raise _wrong(name, 'is the id of a vendor or "*"')
    return value


def _locations(value: Any, name: str) -> frozenset[str] | None:
    if value is None:
        return frozenset()
    if value in (EVERY, [EVERY]):
        return None
    if not isinstance(value, list) or not all(isinstance(place, str) and is_key(place) for place in value):
        raise _wrong(name, 'is a list of ids of locations or "*"')
    if len(value) > MAX_LOCATIONS:
        raise _wrong(name, f'names up to {MAX_LOCATIONS} locations, or "*"')
    places = frozenset(value)
    return _shared(places) if len(places) <= _FEW else places


@lru_cache(maxsize=1024)
def _shared(names: frozenset[str]) -> frozenset[str]:
    """The same object for all who have the same: it is kept as long as the connection is there."""
    return names


def _wrong(name: str, text: str) -> BadToken:
    return BadToken(Reason.CLAIMS, f"the claim `{name}` of the token {text}")
