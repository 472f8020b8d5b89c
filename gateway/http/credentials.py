"""Who sends a request."""

from starlette.requests import Request

from gateway.http.ports import Authority
from protocol.errors import ErrorCode, ProtocolError
from protocol.principal import Principal

__all__ = ["Identification"]


class Identification:
    """By `Authorization: Bearer` (RFC 6750 section 2.1); other schemes are for a proxy in front of us."""

    def __init__(self, anonymous: Principal | None, authority: Authority | None) -> None:
        """`anonymous`: who comes without credentials; None: nobody may. Without an authority there are no
        tokens."""
        self._anonymous = anonymous
        self._authority = authority

    async def __call__(self, request: Request) -> Principal:
        """Raises ProtocolError."""
        lines = request.headers.getlist("authorization")
        bearers = [
            line.partition(" ")[2].strip() for line in lines if line[:7].lower() in ("bearer ", "bearer")
        ]
        if not bearers:
            if self._anonymous is None:
                raise ProtocolError(ErrorCode.UNAUTHENTICATED, "credentials are needed")
            return self._anonymous
        if self._authority is None:
            raise ProtocolError(ErrorCode.UNAUTHENTICATED, "this gateway takes no tokens")
        if len(bearers) > 1:
            raise ProtocolError(ErrorCode.UNAUTHENTICATED, "send one token")
        return await self._authority.check(bearers[0])
