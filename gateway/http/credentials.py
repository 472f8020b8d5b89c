"""Who sends a request."""

from collections.abc import Awaitable, Mapping, Sequence
from functools import partial

from starlette.requests import Request

from gateway.auth.signatures import HEADERS, SignatureReason
from gateway.http.bodies import read_body
from gateway.http.limiting import RequestLimits
from gateway.http.ports import Authority, Signatures
from protocol.errors import ErrorCode, ProtocolError
from protocol.principal import Principal

__all__ = ["Identification"]


class Identification:
    """By `Authorization: Bearer` (RFC 6750 section 2.1), other schemes being for a proxy in front of us; or,
    with a POST, by a signature (Standard Webhooks)."""

    def __init__(
        self,
        anonymous: Principal | None,
        authority: Authority | None,
        signatures: Signatures | None = None,
        *,
        limits: RequestLimits,
    ) -> None:
        """`anonymous`: who comes without credentials; None: nobody may. Without an authority there are no
        tokens, and without `signatures` no signed requests."""
        self._anonymous = anonymous
        self._authority = authority
        self._signatures = signatures
        self._limits = limits

    async def __call__(self, request: Request) -> Principal:
        """The request counts as one of theirs. Raises ProtocolError; HTTPException for the body of a signed
        request, which bodies.read_body() gives again afterwards."""
        lines = request.headers.getlist("authorization")
        bearers = [
            line.partition(" ")[2].strip() for line in lines if line[:7].lower() in ("bearer ", "bearer")
        ]
        signed = {name: request.headers.getlist(name) for name in HEADERS}
        if any(signed.values()):
            return await self._by_signature(request, signed, has_token=bool(bearers))
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
        return await self._counted(request, self._authority.check(bearers[0]))

    async def _counted(self, request: Request, check: Awaitable[Principal]) -> Principal:
        """Whoever it turns out to be; who has often been wrong is not asked any more for a while."""
        try:
            principal = await check
        except ProtocolError as error:
            if error.code is not ErrorCode.UNAVAILABLE:
                self._limits.bad_token(request)
            raise
        self._limits.request(request, principal)
        return principal

    async def _by_signature(
        self, request: Request, signed: Mapping[str, Sequence[str]], *, has_token: bool
    ) -> Principal:
        if self._signatures is None:
            raise ProtocolError(ErrorCode.UNAUTHENTICATED, "this gateway takes no signed requests")
        if has_token:
            raise self._signatures.refused(SignatureReason.AMBIGUOUS)
        # What a signature is over has no method: of others than POST nobody has meant it.
        if request.method != "POST":
            raise self._signatures.refused(SignatureReason.METHOD)
        self._limits.token(request)
        return await self._counted(request, self._signatures.check(signed, partial(read_body, request)))
