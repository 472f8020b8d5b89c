"""WebSocket frames, built once and written to many sockets."""

import struct

__all__ = ["pong_frame", "text_frame"]

_FIN_TEXT = 0x81
_FIN_PONG = 0x8A


def text_frame(payload: bytes) -> bytes:
    """An unfragmented, unmasked text frame (RFC 6455 5.2: a server never masks)."""
    length = len(payload)
    if length < 126:
        return bytes((_FIN_TEXT, length)) + payload
    if length < 65536:
        return struct.pack("!BBH", _FIN_TEXT, 126, length) + payload
    return struct.pack("!BBQ", _FIN_TEXT, 127, length) + payload


def pong_frame(payload: bytes) -> bytes:
    """The answer to a ping of this payload, which has up to 125 bytes (RFC 6455 5.5)."""
    return bytes((_FIN_PONG, len(payload))) + payload
