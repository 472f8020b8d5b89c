"""What a WebSocket handshake asks for, and whether it may have it. No I/O."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs

from websockets.datastructures import Headers

from gateway.origins import OriginPolicy
from gateway.request_head import origin_form
from protocol.dialects import Dialect

__all__ = ["Handshake", "Rejection", "read_handshake", "switching_protocols"]

PATH: Final = "/realtime"
BEARER: Final = "bearer."


@dataclass(frozen=True, slots=True)
class Handshake:
    """`subprotocol` is what the answer names; None where the client has offered none of ours.

    `bearer` is the token, "" for credentials that can not be read; None: there are none. `ticket` counts only
    where there is no token.
    """

    dialect: Dialect
    subprotocol: str | None
    topics: tuple[str, ...]
    bearer: str | None = field(repr=False)
    ticket: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Rejection:
    status: HTTPStatus
    message: str
    reason: str  # a label of gateway_connections_refused, or "" for a plain mistake


def read_handshake(
    path: str, headers: Headers, dialects: Mapping[str, Dialect], origins: OriginPolicy
) -> Handshake | Rejection:
    """`dialects` by subprotocol, the default one first."""
    place, _, asked = origin_form(path).partition("?")
    if place != PATH:
        return Rejection(HTTPStatus.NOT_FOUND, f"WebSocket connections are made to {PATH}", "")
    if not all(origins.allows(origin, _last(headers, "Host")) for origin in headers.get_all("Origin")):
        return Rejection(HTTPStatus.FORBIDDEN, "this origin may not connect", "origin")
    offered = [name.strip() for line in headers.get_all("Sec-WebSocket-Protocol") for name in line.split(",")]
    subprotocol = next((name for name in offered if name in dialects), None)
    default = next(iter(dialects.values()))
    query = parse_qs(asked)
    return Handshake(
        dialect=dialects[subprotocol] if subprotocol is not None else default,
        subprotocol=subprotocol,
        topics=tuple(topic for names in query.get("topics", []) for topic in names.split(",") if topic),
        bearer=_bearer(headers, offered),
        ticket=next(iter(query.get("ticket", [])), None),
    )


def switching_protocols(accept: str, subprotocol: str | None) -> bytes:
    """The answer to a handshake that is in order (RFC 6455 4.2.2); `accept` is for Sec-WebSocket-Accept."""
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept}",
        *([f"Sec-WebSocket-Protocol: {subprotocol}"] if subprotocol else []),
    ]
    return "\r\n".join((*lines, "", "")).encode()


def _last(headers: Headers, name: str) -> str | None:
    return next(reversed(headers.get_all(name)), None)


def _bearer(headers: Headers, offered: Sequence[str]) -> str | None:
    """The token in the header or, for browsers, in a subprotocol entry; "" for one that can not be read."""
    lines = headers.get_all("Authorization")
    if lines:
        scheme, _, token = lines[0].partition(" ")
        return token.strip() if scheme.lower() == "bearer" and len(lines) == 1 else ""
    for name in offered:
        if name.startswith(BEARER):
            encoded = name.removeprefix(BEARER)
            try:
                return base64.b64decode(encoded + "=" * (-len(encoded) % 4), b"-_", validate=True).decode()
            except (binascii.Error, ValueError):
                return ""
    return None
