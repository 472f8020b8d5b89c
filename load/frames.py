"""Just enough of RFC 6455 for a load generator: a cheaper client leaves more of the machine to the server."""

import struct
from typing import Final, NamedTuple

__all__ = ["BINARY", "CLOSE", "PING", "PONG", "TEXT", "Frame", "FrameReader", "client_frame", "server_frame"]

TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

_FINAL: Final = 0x80
_MASKED: Final = 0x80
# A mask of zeros leaves the payload as it is. RFC 6455, 5.3 wants it unpredictable to protect proxies from
# scripts in browsers; there are neither here.
_MASK: Final = bytes(4)


class Frame(NamedTuple):
    opcode: int
    payload: bytes


class FrameReader:
    """Splits a server's bytes into frames."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames complete now. Raises ValueError for fragments and masks: none are sent to us."""
        if self._rest:
            data = self._rest + data
        frames, at, size = [], 0, len(data)
        while size - at >= 2:
            length, begin = data[at + 1], at + 2
            if length & _MASKED or not data[at] & _FINAL:
                raise ValueError(f"fragmented or masked: {data[at:begin].hex()}")
            if length >= 126:
                wide = 2 if length == 126 else 8
                begin += wide
                if begin > size:
                    break
                length = int.from_bytes(data[at + 2 : begin])
            end = begin + length
            if end > size:
                break
            frames.append(Frame(data[at] & 0x0F, data[begin:end]))
            at = end
        self._rest = data[at:]
        return frames


def client_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """One whole frame from a client."""
    return _head(len(payload), opcode, _MASKED) + _MASK + payload


def server_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """One whole frame to a client."""
    return _head(len(payload), opcode, 0) + payload


def _head(length: int, opcode: int, masked: int) -> bytes:
    if length < 126:
        return struct.pack("!BB", _FINAL | opcode, masked | length)
    if length < 65536:
        return struct.pack("!BBH", _FINAL | opcode, masked | 126, length)
    return struct.pack("!BBQ", _FINAL | opcode, masked | 127, length)
