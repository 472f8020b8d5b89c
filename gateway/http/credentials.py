"""Who sends a request."""

from starlette.requests import Request

from gateway.http.limiting import RequestLimits
from gateway.http.ports import Authority
from protocol.errors import ErrorCode, ProtocolError
from protocol.principal import Principal

__all__ = ["Identification"]


class Identification:
    """By `Authorization: Bearer` (RFC 6750 section 2.1); other schemes are for a proxy in front of us."""

    def __init__(
        self, anonymous: Principal | None, authority: Authority | None, *, limits: RequestLimits
    ) -> None:
        """`anonymous`: who comes without credentials; None: nobody may. Without an authority there are no
        tokens."""
        self._anonymous = anonymous
        self._authority = authority
        self._limits = limits

    async def __call__(self, request: Request) -> Principal:
        """The request counts as one of theirs. Raises ProtocolError."""
        lines = request.headers.getlist("authorization")
        bearers = [
            line.partition(" ")[2].strip() for line in lines if line[:7].lower() in ("bearer ", "bearer")
        ]
        if not bearers:
            self._limits.request(request, None)
            if self._anonymous is None:
                raise ProtocolError(ErrorCode.UNAUTHENTICATED, "credentials are needed")
            return self._anonymous
        if self._authority is None:
            raise ProtocolError(ErrorCode.UNAUTHENTICATED, "this gateway takes no tokens")
        if len(bearers) > 1:
            raise ProtocolError(ErrorCode.UNAUTHENTICATED, "send one token")
        self._limits.token(request)
        try:
            principal = await self._authority.check(bearers[0])
        except ProtocolError as error:
            if error.code is not ErrorCode.UNAVAILABLE:
                self._limits.bad_token(request)
            raise
        self._limits.request(request, principal)
        return principal
