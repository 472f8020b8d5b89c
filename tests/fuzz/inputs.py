"""What a hostile client may send: nearly right more often than not, for what is wrong at once goes nowhere.

Everything is drawn from a `random.Random`: a seeded one for a million inputs, hypothesis' for a few that
shrink, one that reads atheris' bytes for those that coverage leads to.
"""

import random
import struct
from collections.abc import Sequence
from typing import Final

from tests.fuzz.messages import BROKEN_UTF8, draw_bomb, draw_message

__all__ = ["draw_input"]

Chunks = list[bytes]

_LENGTHS: Final = (0, 1, 125, 126, 127, 65535, 65536, 16384, 16385, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
_OPCODES: Final = (0, 1, 1, 1, 1, 1, 1, 2, 8, 9, 9, 10, 10, 3, 11)
_CODES: Final = (0, 999, 1000, 1001, 1002, 1004, 1005, 1006, 1011, 1015, 1016, 2999, 3000, 4999, 5000, 65535)

_HANDSHAKE: Final = (
    b"GET /realtime HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
)
_HEADERS: Final = (
    *(
        "Origin",
        "Host",
        "Authorization",
        "Sec-WebSocket-Protocol",
        "Sec-WebSocket-Extensions",
        "X-A",
        "Cookie",
    ),
    *(
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
        "Upgrade",
        "Sec-WebSocket-Key",
        "Forwarded",
        "Expect",
    ),
)
_VALUES: Final = (
    *(
        "",
        "x",
        "null",
        "http://[",
        "http://x",
        "Bearer",
        "Bearer a.b.c",
        "bearer.!!",
        "bearer.YQ",
        ",,;=",
        '"\\',
    ),
    *(
        "inventory.v1",
        "permessage-deflate; client_max_window_bits",
        "chunked",
        "5",
        "0",
        "-1",
        "\xff",
        "a" * 3000,
    ),
    *(
        "websocket",
        "Upgrade, close",
        "100-continue",
        "for=[::1",
        "x:99999999",
        "\x0bchunked",
        " a\r\n b",
        "a\0b",
    ),
)
_TARGETS: Final = (
    *("/realtime?topics=product:P1,location:L1", "/realtime?topics=" + ",".join(["product:P1"] * 120)),
    *(
        "/realtime?topics=%ff%00%0d%0a,vendor:",
        "/realtime?ticket=%00",
        "/realtime?ticket=x&ticket=y",
        "//[",
        "*",
    ),
    *(
        "http://[/realtime",
        "http://x/realtime",
        "/realtime?" + "&" * 2000,
        "/realtime?topics=%ed%a0%80",
        "/x%",
    ),
)


def draw_input(rng: random.Random) -> tuple[Chunks, str]:
    """The bytes of one connection as they arrive, and what kind of input it is. The handshake is the first
    chunk, and in order unless that is the kind."""
    kind = rng.choices(
        ("messages", "frames", "fragments", "json", "noise", "handshake"), (40, 25, 10, 15, 3, 7)
    )[0]
    if kind == "handshake":
        return [*_cut(rng, _handshake(rng)), *_cut(rng, _stream(rng, 1))], kind
    if kind == "messages":
        data = b"".join(_frame(rng, draw_message(rng)) for _ in range(rng.randint(1, 4)))
    elif kind == "frames":
        data = _stream(rng, rng.randint(1, 5))
    elif kind == "fragments":
        data = _fragments(rng, draw_message(rng))
    elif kind == "json":
        data = _frame(rng, draw_bomb(rng))
    else:
        data = rng.randbytes(rng.randint(1, 60))
    if rng.random() < 0.15:
        data = _mutated(rng, data)
    return [_HANDSHAKE + b"\r\n", *_cut(rng, data)], kind


# --- frames


def _frame(
    rng: random.Random,
    payload: bytes,
    *,
    opcode: int = 1,
    first_bits: int = 0x80,
    masked: bool = True,
    form: int | None = None,
    length: int | None = None,
) -> bytes:
    """`form` 125, 126 or 127 is how the length is written, `length` what is written."""
    length = len(payload) if length is None else length
    form = (125 if length < 126 else 126 if length < 65536 else 127) if form is None else form
    head = bytes((first_bits | opcode,))
    bit = 0x80 if masked else 0
    if form == 125:
        head += bytes((bit | min(length, 125),))
    elif form == 126:
        head += struct.pack("!BH", bit | 126, length & 0xFFFF)
    else:
        head += struct.pack("!BQ", bit | 127, length & 0xFFFFFFFFFFFFFFFF)
    if not masked:
        return head + payload
    if rng.random() < 0.5 or len(payload) > 2000:
        return head + bytes(4) + payload
    mask = rng.randbytes(4)
    key = int.from_bytes((mask * (len(payload) // 4 + 1))[: len(payload)])
    return head + mask + (int.from_bytes(payload) ^ key).to_bytes(len(payload))


def _stream(rng: random.Random, frames: int) -> bytes:
    """Frames of all kinds, each right or wrong in one way."""
    return b"".join(_any_frame(rng) for _ in range(frames))


def _any_frame(rng: random.Random) -> bytes:
    opcode = rng.choice(_OPCODES)
    if opcode == 8:
        payload = _close_payload(rng)
    elif opcode in (9, 10):
        payload = rng.randbytes(rng.choice((0, 4, 125, 126)))
    else:
        payload = draw_message(rng)
    first_bits = rng.choice((0xC0, 0xA0, 0x90, 0xF0, 0x40, 0x00, 0x00)) if rng.random() < 0.15 else 0x80
    form = rng.choice((None, None, None, 125, 126, 127))
    length = rng.choice(_LENGTHS) if rng.random() < 0.1 else None
    return _frame(
        rng,
        payload,
        opcode=opcode,
        first_bits=first_bits,
        masked=rng.random() > 0.03,
        form=form,
        length=length,
    )


def _close_payload(rng: random.Random) -> bytes:
    if rng.random() < 0.2:
        return rng.randbytes(rng.randint(0, 1))
    reason = rng.choice((b"", b"bye", "é".encode() * 61, rng.choice(BROKEN_UTF8), b"x" * 123, b"x" * 124))
    return rng.choice(_CODES).to_bytes(2) + reason


def _fragments(rng: random.Random, message: bytes) -> bytes:
    """One message in several frames, cut anywhere (inside a character too), with others in between."""
    parts = _cut(rng, message, at_most=6) or [b""]
    said = b""
    for number, part in enumerate(parts):
        opcode = 0 if number else rng.choice((1, 1, 1, 2))
        last = number == len(parts) - 1
        said += _frame(rng, part, opcode=opcode, first_bits=0x80 if last and rng.random() > 0.05 else 0)
        if rng.random() < 0.3:
            opcode = rng.choice((9, 9, 10, 8, 1))
            payload = _close_payload(rng) if opcode == 8 else b"between"
            said += _frame(rng, payload, opcode=opcode)
    return said


# --- the handshake


def _handshake(rng: random.Random) -> bytes:
    head = _HANDSHAKE
    if rng.random() < 0.4:
        head = head.replace(b"/realtime", rng.choice(_TARGETS).encode("latin-1"), 1)
    for _ in range(rng.randint(0, 3)):
        head += f"{rng.choice(_HEADERS)}: {rng.choice(_VALUES)}\r\n".encode("latin-1")
    head += b"\r\n"
    if rng.random() < 0.1:
        head = b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n" + head
    return _mutated(rng, head) if rng.random() < 0.3 else head


# --- bytes


def _cut(rng: random.Random, data: bytes, at_most: int = 4) -> Chunks:
    """In pieces, as a network may deliver them."""
    if rng.random() < 0.5 or len(data) < 2:
        return [data] if data else []
    places = sorted({rng.randint(1, len(data) - 1) for _ in range(rng.randint(1, at_most))})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def _mutated(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randint(0, len(changed))
        kind = rng.randrange(4)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at:at] = rng.randbytes(rng.randint(1, 8))
        elif kind == 2:
            del changed[at : at + rng.randint(1, 8)]
        else:
            changed[at:at] = _slice(rng, changed)
    return bytes(changed)


def _slice(rng: random.Random, data: Sequence[int]) -> bytes:
    begin = rng.randint(0, len(data))
    return bytes(data[begin : begin + 200])
