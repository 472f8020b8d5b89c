"""What a client's address is worth: in the logs, and as what limits count by. No I/O."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

__all__ = ["Network", "Networks", "network_of", "plain_address"]

Network = IPv4Network | IPv6Network

_HOST_BITS: Final = 64


def plain_address(text: str) -> str | None:
    """The address as everybody writes it, IPv4 where it is mapped into IPv6 (RFC 4291 2.5.5.2).

    None: it is none, or one with a zone, which means nothing to anybody else.
    """
    if "%" in text:
        return None
    try:
        return str(_unmapped(ip_address(text)))
    except ValueError:
        return None


def network_of(address: str) -> str:
    """What limits count an address as: an IPv4 address, or the first half of an IPv6 one, whose other half is
    each client's to choose (RFC 4291 2.5.1). What is neither stands for itself."""
    if ":" not in address:
        return address
    try:
        parsed = _unmapped(ip_address(address.partition("%")[0]))
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    return f"{IPv6Address(int(parsed) >> _HOST_BITS << _HOST_BITS)}/{_HOST_BITS}"


class Networks:
    """A set of networks that can be asked for an address."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = tuple(networks)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, address: str) -> bool:
        if not self._networks:
            return False
        try:
            parsed = _unmapped(ip_address(address.partition("%")[0]))
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)


def _unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
