"""Whom a proxy speaks for: `Forwarded` (RFC 7239) and `X-Forwarded-For`. No I/O."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from gateway.addresses import Networks, plain_address

__all__ = ["ForwardedError", "forwarded_client", "read_forwarded", "read_x_forwarded_for"]

# More than a chain of proxies needs: whoever sends more only wants it to be read.
MAX_HOPS: Final = 32
MAX_LINE_CHARACTERS: Final = 2048

# RFC 9110 5.6.2 and 5.6.4; RFC 7239 4 for the pairs and the elements.
_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED: Final = r'"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[^\x00-\x08\x0a-\x1f\x7f])*"'
_PAIR: Final = re.compile(rf"({_WORD})=(?:({_WORD})|({_QUOTED}))")
_SPACE: Final = re.compile(r"[ \t]*")
# RFC 7239 6: a port may be obfuscated as well.
_BRACKETED: Final = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::(?:\d{1,5}|_[A-Za-z0-9._-]+))?")
_IPV4: Final = re.compile(r"(\d{1,3}(?:\.\d{1,3}){3})(?::(?:\d{1,5}|_[A-Za-z0-9._-]+))?")
_HIDDEN: Final = re.compile(r"(?:unknown|_[A-Za-z0-9._-]+)(?::(?:\d{1,5}|_[A-Za-z0-9._-]+))?", re.IGNORECASE)


class ForwardedError(ValueError):
    """The headers do not say who the client is: garbage, or two that contradict each other."""


# The address that a proxy was talking to; None: it does not want to say.
Hop = str | None


def forwarded_client(
    peer: str, proxies: Networks, *, forwarded: Sequence[str], x_forwarded_for: Sequence[str]
) -> str:
    """The client's address, as far as proxies that are trusted know it. `peer` is one of them.

    Both are walked from the right, where the nearest proxy has written, up to the first address that is no
    trusted proxy: whatever stands left of it anybody may have written. A hop that hides its address is as far
    as it goes: the proxy that does so stands for all its clients.

    Raises ForwardedError where what has to be read is garbage. Where both are there and differ as well: of
    a proxy that writes the one and passes the other on, as most do, the other is the client's own invention,
    and which one it is can not be told.
    """
    found = {
        _walk(peer, proxies, hops)
        for lines, hops in (
            (forwarded, read_forwarded(forwarded)),
            (x_forwarded_for, read_x_forwarded_for(x_forwarded_for)),
        )
        if lines
    }
    if len(found) > 1:
        raise ForwardedError("Forwarded and X-Forwarded-For contradict each other")
    return next(iter(found), peer)


def _walk(peer: str, proxies: Networks, hops: Iterable[Hop]) -> str:
    client = peer
    for hop in hops:
        if hop is None:
            break
        client = hop
        if client not in proxies:
            break
    return client


def read_x_forwarded_for(lines: Sequence[str]) -> Iterator[Hop]:
    """The hops, nearest first. Raises ForwardedError where one that is asked for is garbage."""
    number = 0
    for line in reversed(lines):
        for entry in reversed(line.rsplit(",", MAX_HOPS)):
            number += 1
            if number > MAX_HOPS:
                raise ForwardedError("too many proxies")
            yield _hop(entry.strip(" \t"), bare=True)


def read_forwarded(lines: Sequence[str]) -> Iterator[Hop]:
    """The same of `Forwarded`, a line at a time: a comma may stand in quotes, so one is read as a whole."""
    number = 0
    for line in reversed(lines):
        for node in reversed(_nodes(line)):
            number += 1
            if number > MAX_HOPS:
                raise ForwardedError("too many proxies")
            # A proxy may leave `for` out (RFC 7239 4), which hides it as `unknown` does.
            yield None if node is None else _hop(node, bare=False)


def _nodes(line: str) -> list[str | None]:
    """The `for` of each element."""
    if len(line) > MAX_LINE_CHARACTERS:
        raise ForwardedError("too long")
    nodes: list[str | None] = []
    names: set[str] = set()
    node: str | None = None
    at = _after_space(line, 0)
    while True:
        if match := _PAIR.match(line, at):
            name = match[1].lower()
            if name in names:
                raise ForwardedError("a parameter stands twice in one element")
            names.add(name)
            if name == "for":
                node = match[2] if match[3] is None else re.sub(r"\\(.)", r"\1", match[3][1:-1])
            at = _after_space(line, match.end())
        separator = line[at : at + 1]
        if separator in ("", ","):
            if names:  # else an empty list element (RFC 9110 5.6.1)
                nodes.append(node)
            names, node = set(), None
            if not separator:
                return nodes
        elif separator != ";":
            raise ForwardedError("not what RFC 7239 has")
        at = _after_space(line, at + 1)


def _after_space(line: str, at: int) -> int:
    match = _SPACE.match(line, at)
    return at if match is None else match.end()


def _hop(text: str, *, bare: bool) -> Hop:
    """`bare`: IPv6 may stand without brackets, as X-Forwarded-For has it."""
    match = _BRACKETED.fullmatch(text) or _IPV4.fullmatch(text)
    address = plain_address(match[1] if match else text) if match or bare else None
    if address is not None:
        return address
    if _HIDDEN.fullmatch(text):
        return None
    raise ForwardedError("no address")
