"""The messages among a hostile client's inputs (tests.fuzz.inputs)."""

import random
from typing import Any, Final

import orjson

from tests.support.tokens import SECRET, compact, hs256

__all__ = ["BROKEN_UTF8", "KNOWN_TOPICS", "draw_bomb", "draw_message"]

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
BROKEN_UTF8: Final = (
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
_UNITS: Final = (b"x", rb"\u0041", rb"\\", "é".encode(), rb"\ud83d\ude00")


def draw_message(rng: random.Random) -> bytes:
    draw = rng.random()
    if draw < 0.45:
        return orjson.dumps(_sensible(rng))
    if draw < 0.75:
        return orjson.dumps(_odd(rng))
    if draw < 0.9:
        return _written(rng)
    text = orjson.dumps(_sensible(rng))
    at = rng.randint(0, len(text))
    return text[:at] + rng.choice(BROKEN_UTF8) + text[at:]


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


def draw_bomb(rng: random.Random) -> bytes:
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
        inner = b'"' + rng.choice(_UNITS) * (size // 6) + b'"'
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
        return compact(rng.choice((header, draw_bomb(rng)[:6000])), claims, rng.randbytes(32))
    if draw == 3:
        return hs256(rng.choice((_written(rng), draw_bomb(rng)[:5000])))
    if draw == 4:
        claims[rng.choice(("sub", "exp", "nbf", "vendor_id", "locations", "permissions", "jti"))] = _value(
            rng, 2
        )
        return hs256(claims, secret=SECRET.encode())
    return rng.choice(("a.b.c", ".".join("abcd"), "." * 9000, "a" * 9000))
