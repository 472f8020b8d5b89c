import asyncio
import errno
import socket
import struct
import sys
from typing import Final

from gateway.errors import CommandFailed
from gateway.setting_types import Address

__all__ = ["bind_socket", "bound_address", "direct_fd", "taken_bytes"]

# More unsent bytes than this stay with us, where a newer value can still take the place of an older one.
NOTSENT_LOWAT: Final = 16 * 1024
# Of Linux' struct tcp_info: tcpi_bytes_acked, behind 8 bytes and 28 numbers.
_BYTES_ACKED: Final = struct.Struct("=120xQ")


def bind_socket(address: Address, *, setting: str, user_timeout_ms: int = 0) -> socket.socket:
    """A bound TCP socket that does not listen yet: who comes too early is refused, not left waiting.

    Accepted connections inherit its options (measured on Linux), so these cost nothing per client:
    TCP_NOTSENT_LOWAT, keepalive, and TCP_USER_TIMEOUT of `user_timeout_ms` (0: the system's). The latter also
    ends a peer that only does not read; to tell it why (1013), let GATEWAY_SLOW_CLIENT_S come first.
    Raises CommandFailed, of one line that names `setting`.
    """
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise CommandFailed(f"{setting}={address}: {error.strerror}") from error
    bound = socket.socket(family, kind, protocol)
    try:
        _set_options(bound, user_timeout_ms)
        bound.bind(target)
    except OSError as error:
        bound.close()
        raise CommandFailed(f"{setting}={address}: {_reason(error)}") from error
    bound.setblocking(False)
    return bound


def bound_address(bound: socket.socket) -> Address:
    """Where a socket is bound, the system's choice for port 0 included."""
    host, port, *_ = bound.getsockname()
    return Address(host, port)


def taken_bytes(transport: asyncio.Transport) -> int:
    """Rises whenever the peer takes something.

    On Linux it is what TCP says was acknowledged: between a transport of TLS and the kernel lies another
    buffer, which nobody can look into. Elsewhere our own buffer has to do.
    """
    sock = transport.get_extra_info("socket")
    if sys.platform != "linux" or sock is None or sock.fileno() < 0:
        return -transport.get_write_buffer_size()
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.size)
    acknowledged: int = _BYTES_ACKED.unpack(info)[0] if len(info) == _BYTES_ACKED.size else 0
    return acknowledged


def direct_fd(transport: asyncio.BaseTransport) -> int:
    """The descriptor of the transport's socket; -1 where bytes must not pass it by (TLS) or there is none."""
    sock = transport.get_extra_info("socket")
    if sock is None or transport.get_extra_info("sslcontext") is not None:
        return -1
    return int(sock.fileno())


def _set_options(bound: socket.socket, user_timeout_ms: int) -> None:
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, user_timeout_ms)


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is taken; stop what listens there or choose another one"
    if error.errno == errno.EACCES:
        return "this user may not listen there; choose a port from 1024 on"
    return (error.strerror or str(error)).lower()
