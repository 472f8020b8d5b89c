"""Keys of services that sign their requests, and what each service may: `GATEWAY_SERVICE_KEYS`. No I/O."""

import binascii
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from protocol.principal import EVERY, Permission, Principal
from protocol.topics import is_key

__all__ = ["SERVICE_PREFIX", "BadServiceKeys", "Service", "read_service_keys"]

# What the name of a service's principal begins with.
SERVICE_PREFIX: Final = "service:"
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what every key begins with
# Standard Webhooks, "Signature scheme": a random secret of 24 to 64 bytes.
MIN_KEY_BYTES: Final = 24
MAX_KEY_BYTES: Final = 64
# Fewer different bytes than this are no random key: of random ones that never happens.
_MIN_DIFFERENT: Final = 8
# The one in use, and the one that takes its place.
MAX_KEYS: Final = 2
# A signature does not say whose it is, so it is compared with one by every key.
MAX_SERVICES: Final = 32
MAX_LOCATIONS: Final = 1000
_PERMISSIONS: Final = frozenset(str(permission) for permission in Permission)


class BadServiceKeys(ValueError):
    """The message is for the operator and holds nothing of a key."""


@dataclass(frozen=True, slots=True)
class Service:
    """Who may sign with these keys, and what it may then: nothing that is not said.

    `vendor_id` and `locations` are those of a Principal.
    """

    name: str
    keys: tuple[bytes, ...] = field(repr=False)
    vendor_id: str | None
    locations: frozenset[str] | None
    permissions: frozenset[str]

    def principal(self, *, message_id: str, now: float, ttl_s: float) -> Principal:
        """Whoever has signed the message, for `ttl_s` from `now`, in seconds since 1970."""
        name = SERVICE_PREFIX + self.name
        return Principal(
            name,
            self.permissions,
            vendor_id=self.vendor_id,
            locations=self.locations,
            expires_at=now + ttl_s,
            issued_at=now,
            jti=f"{name}:{message_id}",
        )

    def is_scope_of(self, principal: Principal) -> bool:
        """Whether the principal may what the service may now."""
        scope = (principal.vendor_id, principal.locations, principal.permissions)
        return scope == (self.vendor_id, self.locations, self.permissions)


class _Draft:
    """A service whose entries are still being read."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.vendor: str | None = None
        self.locations: set[str] = set()
        self.permissions: set[str] = set()

    def finish(self, name: str) -> Service:
        if not self.keys:
            raise BadServiceKeys(f"{name} has no key")
        places = None if EVERY in self.locations else frozenset(self.locations)
        return Service(name, tuple(self.keys), self.vendor, places, frozenset(self.permissions))


def read_service_keys(text: str) -> Mapping[str, Service]:
    """The services by name.

    Entries are separated by commas or line ends; `#` begins a comment. `name:whsec_...` is a key, two at the
    most for one name; `name:vendor=V`, `name:location=L` and `name:permission=P` say what the service may,
    the latter two as often as needed. Raises BadServiceKeys.
    """
    drafts: dict[str, _Draft] = {}
    seen: set[bytes] = set()
    for number, entry in enumerate(_entries(text), 1):
        name, colon, value = entry.partition(":")
        # A key whose name was forgotten must not be told as a name.
        if not colon or not is_key(name) or name.startswith(SECRET_PREFIX):
            raise BadServiceKeys(f"entry {number} does not begin with the name of a service and a colon")
        draft = drafts.setdefault(name, _Draft())
        try:
            if value.startswith(SECRET_PREFIX):
                _add_key(draft, _decoded(value), seen)
            else:
                _add_scope(draft, value)
        except BadServiceKeys as error:
            raise BadServiceKeys(f"entry {number} ({name}): {error}") from None
    if not drafts:
        raise BadServiceKeys("there is no service")
    if len(drafts) > MAX_SERVICES:
        raise BadServiceKeys(f"there are {len(drafts)} services, and {MAX_SERVICES} are allowed")
    return {name: draft.finish(name) for name, draft in drafts.items()}


def _entries(text: str) -> Iterator[str]:
    for line in text.splitlines():
        for part in line.partition("#")[0].split(","):
            if entry := part.strip():
                yield entry


def _decoded(value: str) -> bytes:
    encoded = value.removeprefix(SECRET_PREFIX).rstrip("=")
    try:
        key = b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise BadServiceKeys("what follows whsec_ is no base64") from None
    if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
        raise BadServiceKeys(f"a key has {MIN_KEY_BYTES} to {MAX_KEY_BYTES} bytes, and this one {len(key)}")
    if len(set(key)) < _MIN_DIFFERENT:
        raise BadServiceKeys("this key is not random")
    return key


def _add_key(draft: _Draft, key: bytes, seen: set[bytes]) -> None:
    if key in seen:
        raise BadServiceKeys("this key was there before; every key belongs to one service, once")
    if len(draft.keys) == MAX_KEYS:
        raise BadServiceKeys(f"a service has up to {MAX_KEYS} keys; take the oldest away first")
    seen.add(key)
    draft.keys.append(key)


def _add_scope(draft: _Draft, value: str) -> None:
    what, _, thing = value.partition("=")
    if what == "vendor" and _is_id(thing):
        if draft.vendor is not None:
            raise BadServiceKeys("the vendor was said before; * stands for all")
        draft.vendor = thing
    elif what == "location" and _is_id(thing):
        draft.locations.add(thing)
        if len(draft.locations) > MAX_LOCATIONS:
            raise BadServiceKeys(f"more than {MAX_LOCATIONS} locations; * stands for all")
    elif what == "permission" and thing in _PERMISSIONS:
        draft.permissions.add(thing)
    else:
        # Not what was read: it could be a key without its prefix.
        raise BadServiceKeys(
            "this is neither whsec_..., nor vendor=, location= or permission= with a known one"
        )


def _is_id(text: str) -> bool:
    return text == EVERY or is_key(text)
