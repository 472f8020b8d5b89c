"""Services that sign their requests: whose a signature is, once."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

import structlog

from gateway.auth.revocations import digest
from gateway.auth.service_keys import SERVICE_PREFIX, Service
from gateway.auth.signatures import BadSignature, Signature, SignatureReason, find_signers, read_signature
from protocol.errors import ErrorCode, ProtocolError
from protocol.principal import Principal

__all__ = ["RequestMemory", "ServiceSignatures"]

log = structlog.get_logger(__name__)

# How far a timestamp may be from our clock, either way, in s.
TOLERANCE_S: Final = 300
# A request from the end of our future is good for twice the tolerance; the rest is for replicas' clocks.
REMEMBER_S: Final = 2 * TOLERANCE_S + 60
# What was made with a signature, a connection by a ticket, ends after this, in s.
SESSION_S: Final = 3600
# More bytes than these (of the body, by every key) would hold up the event loop: about 0.5 ms.
_INLINE_BYTES: Final = 512 * 1024
# Of refusals for one reason a line is logged so often at most, in s: strangers can cause them.
_LOG_EVERY_S: Final = 10.0

_TEXTS: Final = {
    SignatureReason.MALFORMED: "webhook-id, webhook-timestamp and webhook-signature are needed, one of each, "
    "as in Standard Webhooks",
    SignatureReason.METHOD: "only POST requests are signed; send a token",
    SignatureReason.AMBIGUOUS: "send a token or a signature, not both",
    SignatureReason.EXPIRED: f"webhook-timestamp is more than {TOLERANCE_S} s ago",
    SignatureReason.NOT_YET: f"webhook-timestamp is more than {TOLERANCE_S} s ahead",
    SignatureReason.REPLAY: "webhook-id was used before; sign every attempt with a new one",
}
_NOT_ACCEPTED: Final = "the signature is not accepted"


class RequestMemory(Protocol):
    """Shared by all replicas. Raises ProtocolError `unavailable`."""

    async def remember(self, digest: str, ttl_s: int) -> bool:
        """Whether it was not known; from then on it is, for `ttl_s`."""
        ...


class ServiceSignatures:
    """Checks signatures by the keys of `services`, which whoever reads them anew replaces as a whole."""

    def __init__(
        self,
        services: Mapping[str, Service],
        memory: RequestMemory,
        *,
        is_revoked: Callable[[Principal], bool] = lambda _: False,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock`: seconds since 1970; `monotonic`: for what is logged, in s."""
        self._memory = memory
        self._is_revoked = is_revoked
        self._clock = clock
        self._monotonic = monotonic
        self._accepted = 0
        self._refused: dict[str, int] = {}
        self._logged: dict[SignatureReason, tuple[float, int]] = {}  # when, and refusals by then
        self.replace(services)

    def replace(self, services: Mapping[str, Service]) -> None:
        """From here on these are the services, and these their keys."""
        self._services = services
        self._keys = [(service, key) for service in services.values() for key in service.keys]

    async def check(
        self, headers: Mapping[str, Sequence[str]], read_body: Callable[[], Awaitable[bytes]]
    ) -> Principal:
        """Who has signed the request. `headers`: all lines of each of signatures.HEADERS.

        The body is read once the rest is in order. Raises ProtocolError `unauthenticated`; `unavailable`
        where nobody can say whether the request was there before; and what `read_body` raises.
        """
        now = self._clock()
        try:
            signature = read_signature(headers)
            _check_time(int(signature.timestamp), now)
        except BadSignature as bad:
            raise self.refused(bad.reason) from None
        service = await self._signer(signature, await read_body())
        if service is None:
            raise self.refused(SignatureReason.SIGNATURE)
        principal = service.principal(message_id=signature.message_id, now=now, ttl_s=SESSION_S)
        if self._is_revoked(principal):
            raise self.refused(SignatureReason.REVOKED, service.name)
        if not await self._is_first(principal):
            raise self.refused(SignatureReason.REPLAY, service.name)
        self._accepted += 1
        return principal

    def refused(self, reason: SignatureReason, service: str | None = None) -> ProtocolError:
        """Counts the refusal and, now and then, logs it; the error is for the caller."""
        count = self._refused[reason] = self._refused.get(reason, 0) + 1
        now = self._monotonic()
        at, before = self._logged.get(reason, (float("-inf"), 0))
        if now - at >= _LOG_EVERY_S:
            self._logged[reason] = (now, count)
            log.warning("signed request refused", reason=reason.value, service=service, times=count - before)
        return ProtocolError(ErrorCode.UNAUTHENTICATED, _TEXTS.get(reason, _NOT_ACCEPTED))

    def is_void(self, principal: Principal) -> bool:
        """Whether it was revoked; or its service, where it was made by a signature, is gone or may something
        else by now."""
        if self._is_revoked(principal):
            return True
        name = principal.name
        # A token may have a subject of that name: then its `jti` tells.
        if not name.startswith(SERVICE_PREFIX) or not (principal.jti or "").startswith(f"{name}:"):
            return False
        service = self._services.get(name.removeprefix(SERVICE_PREFIX))
        return service is None or not service.is_scope_of(principal)

    def statistics(self) -> dict[str, float | Mapping[str, float]]:
        """In the names of gateway.metrics."""
        return {
            "gateway_signatures_accepted": self._accepted,
            "gateway_signatures_refused": dict(self._refused),
            "gateway_service_keys": len(self._keys),
        }

    async def _signer(self, signature: Signature, body: bytes) -> Service | None:
        keys = self._keys
        if len(keys) * len(body) > _INLINE_BYTES:
            found = await asyncio.to_thread(find_signers, signature, body, keys)
        else:
            found = find_signers(signature, body, keys)
        # Both keys of one service may have signed; those of two services are nobody's signature.
        return found[0] if found and all(service is found[0] for service in found) else None

    async def _is_first(self, principal: Principal) -> bool:
        # The name of the message in full: it holds the service's.
        try:
            return await self._memory.remember(digest(principal.jti or ""), REMEMBER_S)
        except ProtocolError:
            self.refused(SignatureReason.UNAVAILABLE)
            raise


def _check_time(timestamp: int, now: float) -> None:
    """Raises BadSignature."""
    if timestamp < now - TOLERANCE_S:
        raise BadSignature(SignatureReason.EXPIRED)
    if timestamp > now + TOLERANCE_S:
        raise BadSignature(SignatureReason.NOT_YET)
