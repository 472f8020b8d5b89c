"""The PROXY protocol, version 2 (HAProxy's proxy-protocol.txt, section 2.2). No I/O."""

from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from gateway.addresses import plain_address

__all__ = ["MAX_HEADER_BYTES", "ProxyHeader", "ProxyHeaderError", "missing_bytes", "read_proxy_header"]

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_FIXED: Final = 16
# Addresses take 36 bytes, the rest are TLVs: those that proxies send (names, TLS, ids) fit many times over.
MAX_HEADER_BYTES: Final = 4096

_LOCAL, _PROXY = 0x20, 0x21
_UNSPECIFIED: Final = 0x00
_TCP4, _TCP6 = 0x11, 0x21
_UNIX_STREAM: Final = 0x31
_SIZES: Final = {_TCP4: 12, _TCP6: 36, _UNIX_STREAM: 216}


class ProxyHeaderError(ValueError):
    """The connection does not begin with a header of version 2."""


class ProxyHeader(NamedTuple):
    """`source`: the client's address; None: the proxy speaks for itself, or can not say. `size` in bytes."""

    source: str | None
    size: int


def read_proxy_header(data: bytes) -> ProxyHeader | None:
    """The header that `data` begins with; None: there is more to come of it.

    TLVs are skipped. Raises ProxyHeaderError, as soon as it can be told: version 1, which is text, has no
    bound that a parser could trust, and may be smuggled into what looks like a request.
    """
    if data[: len(SIGNATURE)] != SIGNATURE[: len(data)]:
        raise ProxyHeaderError("no header of version 2")
    if len(data) < _FIXED:
        return None
    command, family = data[12], data[13]
    size = _FIXED + int.from_bytes(data[14:16])
    if command not in (_LOCAL, _PROXY):
        raise ProxyHeaderError("another version or command")
    if size > MAX_HEADER_BYTES:
        raise ProxyHeaderError("too long")
    if command == _PROXY and family != _UNSPECIFIED:
        if family not in _SIZES:
            raise ProxyHeaderError("not a stream of TCP")
        if size < _FIXED + _SIZES[family]:
            raise ProxyHeaderError("too short for its addresses")
    if len(data) < size:
        return None
    return ProxyHeader(_source(data, family) if command == _PROXY else None, size)


def missing_bytes(data: bytes | bytearray) -> int:
    """How many more may be read without reading what follows the header; `data` is the beginning of one."""
    if len(data) < _FIXED:
        return _FIXED - len(data)
    return _FIXED + int.from_bytes(data[14:16]) - len(data)


def _source(data: bytes, family: int) -> str | None:
    if family == _TCP4:
        return str(IPv4Address(data[16:20]))
    if family == _TCP6:
        return plain_address(str(IPv6Address(data[16:32])))
    return None
