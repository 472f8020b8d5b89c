"""The server's half of a WebSocket handshake, for servers that only send."""

import base64
import hashlib
import re
from typing import Final

__all__ = ["upgrade_response"]

# RFC 6455, 1.3.
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY: Final = re.compile(rb"\r\nsec-websocket-key:[ \t]*(\S+)", re.IGNORECASE)
_SUBPROTOCOL: Final = re.compile(rb"\r\nsec-websocket-protocol:[ \t]*([^\s,]+)", re.IGNORECASE)


def upgrade_response(request: bytes) -> bytes:
    """To a whole request, whatever it asks for. Raises ValueError if it is no handshake."""
    key, subprotocol = _KEY.search(request), _SUBPROTOCOL.search(request)
    if key is None:
        raise ValueError("no Sec-WebSocket-Key")
    accept = base64.b64encode(hashlib.sha1(key[1] + _GUID).digest())
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + accept,
        *([b"Sec-WebSocket-Protocol: " + subprotocol[1]] if subprotocol else []),
    ]
    return b"\r\n".join((*lines, b"", b""))
