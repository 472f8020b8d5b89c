"""What a hostile client may send: nearly right more often than not, for what is wrong at once goes nowhere.

Everything is drawn from a `random.Random`: a seeded one for a million inputs, hypothesis' for a few that
shrink, one that reads atheris' bytes for those that coverage leads to.
"""

import random
import struct
from collections.abc import Sequence
from typing import Any, Final

import orjson

from tests.support.tokens import SECRET, compact, hs256

__all__ = ["KNOWN_TOPICS", "draw_input"]

Chunks = list[bytes]

KNOWN_TOPICS: Final = tuple(
    [f"product:P{n}" for n in range(8)] + [f"location:L{n}" for n in range(4)] + ["vendor:V", "vendor:W"]
)
_TYPES: Final = ("ping", "subscribe", "unsubscribe", "auth", "publish")
_FIELDS: Final = ("type", "id", "topics", "view", "resume", "token", "idempotency_key", "operations", "x")
_TEXTS: Final = (
    *(
        "",
        "a",
        "x" * 64,
        "x" * 65,
        "x" * 4000,
        "\0",
        "\r\n\r\nX: 1",
        "é",
        "\u2028",
        "😀",
        "\ufeff",
        "__proto__",
    ),
    *(
        "constructor",
        "null",
        "' OR 1=1 --",
        "$function$",
        "../..",
        "%00",
        "{}",
        "[]",
        "*",
        "e1",
        "exact",
        "public",
    ),
)
_NUMBERS: Final = (
    *("0", "-0", "1", "-1", "1.5", "1e400", "-1e400", "1e-400", "9007199254740993", "18446744073709551616"),
    *("-9223372036854775809", "NaN", "Infinity", "01", "1" * 400, "1" * 5000, "0." + "1" * 4000, "0x1", "+1"),
)
_BROKEN_UTF8: Final = (
    *(
        b"\xff",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
        b"\x80",
        b"\xf0\x9f\x98",
        b"\xfe",
    ),
)
_ESCAPES: Final = (
    *(
        rb"\ud800",
        rb"\udc00",
        rb"\udc00\ud800",
        rb"\ud83d\ude00",
        rb"\u0000",
        rb"\x41",
        rb"\u12",
        b"\\",
        b"\x01",
    ),
)
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
        data = b"".join(_frame(rng, _message(rng)) for _ in range(rng.randint(1, 4)))
    elif kind == "frames":
        data = _stream(rng, rng.randint(1, 5))
    elif kind == "fragments":
        data = _fragments(rng, _message(rng))
    elif kind == "json":
        data = _frame(rng, _bomb(rng))
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
        payload = _message(rng)
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
    reason = rng.choice((b"", b"bye", "é".encode() * 61, rng.choice(_BROKEN_UTF8), b"x" * 123, b"x" * 124))
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


# --- messages


def _message(rng: random.Random) -> bytes:
    draw = rng.random()
    if draw < 0.45:
        return orjson.dumps(_sensible(rng))
    if draw < 0.75:
        return orjson.dumps(_odd(rng))
    if draw < 0.9:
        return _written(rng)
    text = orjson.dumps(_sensible(rng))
    at = rng.randint(0, len(text))
    return text[:at] + rng.choice(_BROKEN_UTF8) + text[at:]


def _sensible(rng: random.Random) -> dict[str, Any]:
    """A message of the protocol."""
    kind = rng.choice(_TYPES)
    said: dict[str, Any] = {"type": kind}
    if rng.random() < 0.7:
        said["id"] = rng.choice(("a", "x" * 64, "é"))
    if kind in ("subscribe", "unsubscribe"):
        said["topics"] = rng.choices(KNOWN_TOPICS, k=rng.randint(1, 4))
    if kind == "subscribe":
        if rng.random() < 0.3:
            said["view"] = rng.choice(("exact", "public"))
        if rng.random() < 0.3:
            said["resume"] = {
                topic: {"epoch": rng.choice(("e1", "e2")), "seq": rng.randint(0, 3)}
                for topic in said["topics"]
            }
    elif kind == "auth":
        said["token"] = _token(rng)
    elif kind == "publish":
        said |= {"idempotency_key": "k", "operations": [{"op": "adjust", "product_id": "P1"}]}
    return said


def _odd(rng: random.Random) -> Any:
    """One with a field that is wrong, missing or too much."""
    said = _sensible(rng)
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(_FIELDS)
        if rng.random() < 0.2:
            said.pop(name, None)
        else:
            said[name] = _value(rng, 3)
    return said if rng.random() > 0.05 else _value(rng, 3)


def _value(rng: random.Random, depth: int) -> Any:
    draw = rng.randrange(8 if depth else 6)
    if draw < 2:
        return rng.choice(_TEXTS)
    if draw < 4:
        return rng.choice((None, True, False, 0, -1, 1.5, 2**53, 2**64 - 1, -(2**63), 1e308))
    if draw == 4:
        return rng.choice(KNOWN_TOPICS)
    if draw == 5:
        return rng.choice(([], {}, [[]], [""] * 101, list(KNOWN_TOPICS) * 9, {t: {} for t in KNOWN_TOPICS}))
    if draw == 6:
        return [_value(rng, depth - 1) for _ in range(rng.randint(0, 4))]
    return {rng.choice(_TEXTS): _value(rng, depth - 1) for _ in range(rng.randint(0, 4))}


def _written(rng: random.Random) -> bytes:
    """JSON that no encoder writes: members twice, numbers of any form, halves of characters."""
    members = [f'"type":"{rng.choice(_TYPES)}"'.encode()]
    for _ in range(rng.randint(0, 5)):
        name = rng.choice(_FIELDS).encode()
        draw = rng.randrange(4)
        if draw == 0:
            value = rng.choice(_NUMBERS).encode()
        elif draw == 1:
            value = b'"' + rng.choice(_ESCAPES) + b'"'
        elif draw == 2:
            value = orjson.dumps(_value(rng, 2))
        else:
            value = rng.choice((b"", b"nul", b"//", b"'a'", b"{", b"]", b'"', b"undefined", b"\xef\xbb\xbf"))
        members.append(b'"' + name + b'":' + value)
    rng.shuffle(members)
    return (
        rng.choice((b"", b"\xef\xbb\xbf", b" \n"))
        + b"{"
        + b",".join(members)
        + rng.choice((b"}", b"}", b"", b"}}"))
    )


def _bomb(rng: random.Random) -> bytes:
    """As deep, as wide or as long as a message may be, and a little more."""
    size = rng.choice((500, 1000, 1023, 1024, 1025, 3000, 8000, 16_300, 17_000))
    kind = rng.randrange(8)
    if kind == 0:
        inner = b"[" * (size // 2) + b"]" * (size // 2)
    elif kind == 1:
        inner = b'{"a":' * (size // 6) + b"1" + b"}" * (size // 6)
    elif kind == 2:
        inner = b"[" * size
    elif kind == 3:
        inner = b"[" + b"0," * (size // 2) + b"0]"
    elif kind == 4:
        inner = b"{" + b",".join(b'"%d":0' % n for n in range(size // 9)) + b"}"
    elif kind == 5:
        inner = rng.choice((b"1", b"-1", b"0.", b"1e")) + b"9" * size
    elif kind == 6:
        inner = (
            b'"' + rng.choice((b"x", rb"\u0041", rb"\\", "é".encode(), rb"\ud83d\ude00")) * (size // 6) + b'"'
        )
    else:
        inner = b"{" + b",".join([b'"type":"ping"'] * (size // 14)) + b"}"
    name = rng.choice(_FIELDS[1:]).encode()
    return b'{"type":"%s","%s":%s}' % (rng.choice(_TYPES).encode(), name, inner)


def _token(rng: random.Random) -> str:
    draw = rng.randrange(6)
    if draw == 0:
        return rng.choice(_TEXTS)
    claims: Any = {"sub": "s", "exp": 4e9, "permissions": ["inv:read:exact"], "vendor_id": "V"}
    if draw == 1:
        return hs256(claims)
    header: Any = {"alg": rng.choice(("HS256", "none", "RS256", "")), "typ": "JWT", "kid": rng.choice(_TEXTS)}
    if draw == 2:
        return compact(rng.choice((header, _bomb(rng)[:6000])), claims, rng.randbytes(32))
    if draw == 3:
        return hs256(rng.choice((_written(rng), _bomb(rng)[:5000])))
    if draw == 4:
        claims[rng.choice(("sub", "exp", "nbf", "vendor_id", "locations", "permissions", "jti"))] = _value(
            rng, 2
        )
        return hs256(claims, secret=SECRET.encode())
    return rng.choice(("a.b.c", ".".join("abcd"), "." * 9000, "a" * 9000))


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
