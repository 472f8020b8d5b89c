"""A connection from accept to the first byte of its request: who it is, and whether it may stay."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol, cast

from gateway.addresses import Networks
from gateway.admission import ConnectionLimits, Refusal
from gateway.forwarded import ForwardedError, forwarded_client
from gateway.proxy_headers import ProxyHeaders
from gateway.waiting import Waiting

__all__ = ["Arrival", "Arrivals", "Caller", "EdgeSettings", "Http", "too_many_requests"]


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """How connections come in. `proxies` None: everybody is who it seems to be; 0 stands for no limit.

    `request_timeout_s`: how long a request's head may take, from accept on; `body_timeout_s`: its body after
    that, longer than whoever reads one waits (gateway.http.bodies); `keep_alive_s`: how long a connection may
    be idle after an answer.
    """

    proxies: Networks = Networks(())  # noqa: RUF009 - it is never changed
    proxy_protocol: bool = False
    max_half_open: int = 0
    max_idle: int = 0
    request_timeout_s: float = 10.0
    body_timeout_s: float = 15.0
    keep_alive_s: float = 75.0


class Caller(NamedTuple):
    """The other end of a connection. `address`: the client's, or that of the proxy it comes through.

    `admitted`: it is counted in. `refusal`: it is not, and is told so as soon as it has said what it wants.
    """

    address: str
    through_proxy: bool
    admitted: bool = False
    refusal: Refusal | None = None


class Http(Protocol):
    """What speaks HTTP from the first byte on (gateway.server)."""

    def connection_made(self, transport: asyncio.Transport, /) -> None: ...
    def data_received(self, data: bytes, /) -> None: ...


class Arrivals:
    """What the connections of one listening socket share before they are anything in particular."""

    def __init__(self, settings: EdgeSettings, limits: ConnectionLimits | None = None) -> None:
        self.settings = settings
        self.limits = limits or ConnectionLimits()
        limit, timeout_s = settings.max_half_open, settings.request_timeout_s
        # Each stage has the bounds of half-open connections. What the loop takes over is there in the next
        # turn, unless it shakes hands for TLS first.
        self.taking: Waiting[asyncio.Task[Any]] = Waiting(
            lambda task: task.cancel(), limit=limit, timeout_s=timeout_s
        )
        self.heads: Waiting[asyncio.Transport] = Waiting(
            lambda transport: transport.abort(), limit=limit, timeout_s=timeout_s
        )
        self.bodies: Waiting[asyncio.Transport] = Waiting(
            lambda transport: transport.abort(), limit=limit, timeout_s=settings.body_timeout_s
        )
        self.idle: Waiting[asyncio.Transport] = Waiting(
            lambda transport: transport.close(), limit=settings.max_idle, timeout_s=settings.keep_alive_s
        )
        self.proxy_headers = ProxyHeaders(limit=limit, timeout_s=timeout_s)
        self._forwarded_ignored = 0

    def call(self, address: str) -> Caller:
        """Who is at the other end, now that it is known which address that is; it is counted in here."""
        if address in self.settings.proxies:
            return Caller(address, through_proxy=True)
        refusal = self.limits.admit(address)
        return Caller(address, through_proxy=False, admitted=refusal is None, refusal=refusal)

    def client(self, proxy: str, headers: Sequence[tuple[bytes, bytes]]) -> str:
        """Whom a trusted proxy speaks for; where it can not be told, it speaks for itself.

        `headers` by names in lower case.
        """
        forwarded = [value.decode("latin-1") for name, value in headers if name == b"forwarded"]
        others = [value.decode("latin-1") for name, value in headers if name == b"x-forwarded-for"]
        proxies = self.settings.proxies
        try:
            return forwarded_client(proxy, proxies, forwarded=forwarded, x_forwarded_for=others)
        except ForwardedError:
            self._forwarded_ignored += 1
            return proxy

    def drop_all(self) -> None:
        """Whatever has not said yet what it wants."""
        self.proxy_headers.waiting.drop_all()
        self.taking.drop_all()
        self.heads.drop_all()

    def statistics(self) -> dict[str, float | Mapping[str, float]]:
        """In the names of gateway.metrics."""
        half_open: Sequence[Waiting[Any]] = (self.proxy_headers.waiting, self.taking, self.heads, self.bodies)
        return {
            "gateway_half_open_connections": sum(map(len, half_open)),
            "gateway_idle_http_connections": len(self.idle),
            "gateway_connections_dropped": {
                "no_request": sum(each.timed_out for each in half_open),
                "half_open": sum(each.crowded_out for each in half_open),
                "idle": self.idle.crowded_out,
            },
            "gateway_forwarded_ignored": self._forwarded_ignored,
            "gateway_proxy_headers_refused": self.proxy_headers.refused,
        }


class Arrival(asyncio.Protocol):
    """One connection that has not said anything yet.

    It is small, because a stranger can have thousands of it for nothing; HTTP begins with the first byte.
    """

    __slots__ = ("_arrivals", "_caller", "_http", "_transport")

    def __init__(self, arrivals: Arrivals, http: Callable[[Caller], Http], caller: Caller) -> None:
        self._arrivals = arrivals
        self._http = http
        self._caller = caller
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._arrivals.heads.add(self._transport)

    def data_received(self, data: bytes) -> None:
        transport = cast("asyncio.Transport", self._transport)
        http = self._http(self._caller)
        http.connection_made(transport)
        transport.set_protocol(cast("asyncio.BaseProtocol", http))
        http.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrivals.heads.discard(cast("asyncio.Transport", self._transport))
        self._leave()

    def give_up(self) -> None:
        """No connection is going to come of it, if none has."""
        if self._transport is None:
            self._leave()

    def _leave(self) -> None:
        if self._caller.admitted:
            self._arrivals.limits.leave(self._caller.address)


_TEXT: Final = (
    "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nRetry-After: {}\r\nConnection: close\r\n\r\n"
)


def too_many_requests(retry_after_s: float) -> bytes:
    """An answer to whatever was going to be asked."""
    return _TEXT.format(max(1, math.ceil(retry_after_s))).encode()
