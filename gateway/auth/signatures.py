"""Signatures of requests: Standard Webhooks 1.0.0, symmetric (`v1`, HMAC-SHA256). No I/O.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import binascii
import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple, TypeVar

__all__ = [
    "HEADERS",
    "BadSignature",
    "Signature",
    "SignatureReason",
    "find_signers",
    "read_signature",
    "sign",
]

ID_HEADER: Final = "webhook-id"
TIMESTAMP_HEADER: Final = "webhook-timestamp"
SIGNATURE_HEADER: Final = "webhook-signature"
HEADERS: Final = (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER)

_VERSION: Final = "v1"
_DIGEST_BYTES: Final = 32
# Two keys sign at a time; others may be there of schemes that we do not know.
_MAX_SIGNATURES: Final = 16
# Printable ASCII without the full stop: of `id.timestamp.body` each part has to be known by the stops alone,
# else the same signature would be good for another division of the same text.
_ID: Final = re.compile(r"[!-\-/-~]{1,256}")
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}")

HolderT = TypeVar("HolderT")


class SignatureReason(StrEnum):
    """Labels of gateway_signatures_refused."""

    MALFORMED = "malformed"
    METHOD = "method"
    AMBIGUOUS = "ambiguous"
    EXPIRED = "expired"
    NOT_YET = "not_yet"
    SIGNATURE = "signature"
    REVOKED = "revoked"
    REPLAY = "replay"
    UNAVAILABLE = "unavailable"


class BadSignature(Exception):
    def __init__(self, reason: SignatureReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Signature(NamedTuple):
    """What the headers of a request say. `timestamp`: seconds since 1970, as it was written."""

    message_id: str
    timestamp: str
    offered: tuple[bytes, ...]


def read_signature(headers: Mapping[str, Sequence[str]]) -> Signature:
    """`headers` gives all lines of each of HEADERS. Raises BadSignature.

    Signatures of other versions are passed over, as the standard has it, and so are those that can not be
    read; one at least has to be left.
    """
    lines = [headers[name] for name in HEADERS]
    if any(len(values) != 1 for values in lines):
        raise BadSignature(SignatureReason.MALFORMED)
    message_id, timestamp, listed = (values[0].strip() for values in lines)
    entries = listed.split()
    if not _ID.fullmatch(message_id) or not _TIMESTAMP.fullmatch(timestamp) or len(entries) > _MAX_SIGNATURES:
        raise BadSignature(SignatureReason.MALFORMED)
    offered = tuple(digest for entry in entries if (digest := _digest_of(entry)) is not None)
    if not offered:
        raise BadSignature(SignatureReason.MALFORMED)
    return Signature(message_id, timestamp, offered)


def find_signers(signature: Signature, body: bytes, keys: Iterable[tuple[HolderT, bytes]]) -> list[HolderT]:
    """Whose keys have signed it, in the order of the keys.

    Every key is compared with every signature, each in constant time, so that the time it takes says neither
    which of them was nearly right nor which was right.
    """
    found = []
    for holder, key in keys:
        expected = _digest(key, signature.message_id, signature.timestamp, body)
        matches = 0
        for digest in signature.offered:
            matches += hmac.compare_digest(expected, digest)
        if matches:
            found.append(holder)
    return found


def sign(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """One entry of the header `webhook-signature`."""
    return f"{_VERSION},{b64encode(_digest(key, message_id, str(timestamp), body)).decode()}"


def _digest(key: bytes, message_id: str, timestamp: str, body: bytes) -> bytes:
    return hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, "sha256")


def _digest_of(entry: str) -> bytes | None:
    version, _, encoded = entry.partition(",")
    if version != _VERSION:
        return None
    try:
        digest = b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    return digest if len(digest) == _DIGEST_BYTES else None
