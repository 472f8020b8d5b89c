"""What the parser of HTTP lets through and a server must not (RFC 9112): where a proxy and we read a request
differently, one is smuggled inside another."""

import re
from collections.abc import Sequence
from typing import Final

__all__ = ["BadRequest", "check_head", "origin_form"]

# uri-host [ ":" port ] (RFC 9110 7.2); empty where the target has no authority. No comma, though RFC 3986 has
# one: two fields that were joined on the way are no host.
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+;=%-]+|\[[0-9A-Fa-f:.]+\])?(?::[0-9]{0,5})?")
_WITH_CONTENT: Final = (b"POST", b"PUT", b"PATCH")
_ABSOLUTE: Final = re.compile(r"(?:https?|wss?)://([^/?]*)(.*)", re.IGNORECASE | re.DOTALL)


class BadRequest(ValueError):
    """Answered by 400; the message is for who debugs, as a stranger's mistakes are not logged."""


def check_head(
    method: bytes, target: bytes, version: str, headers: Sequence[tuple[bytes, bytes]], *, websocket: bool
) -> None:
    """`headers` have lower-case names; `websocket`: it asks for the upgrade. Raises BadRequest."""
    if version not in ("1.0", "1.1"):
        raise BadRequest("HTTP/1.1 is spoken here")
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise BadRequest("one Host is needed (RFC 9112 3.2)")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise BadRequest("Host is no host (RFC 9112 3.2)")
    absolute = _ABSOLUTE.match(target.decode("latin-1"))
    if absolute and hosts and absolute[1].lower().encode("latin-1") != hosts[0].lower():
        raise BadRequest("the target names another host than Host does")
    if (websocket or method not in _WITH_CONTENT) and any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
        for name, value in headers
    ):
        # Of a GET it means nothing (RFC 9110 9.3.1), and a proxy may take it for the next request. Before
        # frames it would have to be read, for as long as it takes.
        raise BadRequest("content where there is none")


def origin_form(target: str) -> str:
    """Path and query of a target that may be in absolute form (RFC 9112 3.2.2); `//x/y` is a path."""
    absolute = _ABSOLUTE.match(target)
    return target if absolute is None else absolute[2]
