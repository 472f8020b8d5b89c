"""Tickets: what clients that can do nothing else put into the URL, for a token would stay there."""

import re
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final, NamedTuple, Protocol

import orjson

from gateway.auth.errors import BadToken, Reason
from gateway.auth.revocations import digest
from protocol.principal import Principal

__all__ = ["Ticket", "TicketOffice", "TicketStore"]

TTL_S: Final = 30
_FORM: Final = re.compile(r"[A-Za-z0-9_-]{43}")


class TicketStore(Protocol):
    """Shared by all replicas. Raises ProtocolError."""

    async def put_ticket(self, digest: str, holder: bytes, ttl_s: int) -> None: ...
    async def take_ticket(self, digest: str) -> bytes | None: ...


class Ticket(NamedTuple):
    text: str
    expires_in_s: int


class TicketOffice:
    """Good once, on any replica, for TTL_S, and for whoever holds the token it was made for."""

    def __init__(
        self,
        store: TicketStore,
        *,
        is_revoked: Callable[[Principal], bool] = lambda _: False,
        clock: Callable[[], float] = time.time,
        new_ticket: Callable[[], str] = lambda: secrets.token_urlsafe(32),
    ) -> None:
        """`clock`: seconds since 1970."""
        self._store = store
        self._is_revoked = is_revoked
        self._clock = clock
        self._new_ticket = new_ticket

    async def issue(self, principal: Principal) -> Ticket:
        """Raises ProtocolError `unavailable`."""
        text = self._new_ticket()
        await self._store.put_ticket(digest(text), _encode(principal), TTL_S)
        return Ticket(text, TTL_S)

    async def redeem(self, ticket: str) -> Principal:
        """Raises BadToken, or ProtocolError `unavailable`."""
        held = await self._store.take_ticket(digest(ticket)) if _FORM.fullmatch(ticket) else None
        if held is None:
            raise BadToken(Reason.KEY, "the ticket was used, or is too old; get a new one")
        principal = _decode(held)
        if principal.expires_at is not None and principal.expires_at <= self._clock():
            raise BadToken(Reason.EXPIRED, "the token of this ticket has expired; get a new one")
        if self._is_revoked(principal):
            raise BadToken(Reason.REVOKED, "the token of this ticket has been revoked; get a new one")
        return principal


def _encode(principal: Principal) -> bytes:
    return orjson.dumps(asdict(principal), default=sorted)


def _decode(data: bytes) -> Principal:
    fields: dict[str, Any] = orjson.loads(data)
    locations = fields["locations"]
    fields["locations"] = None if locations is None else frozenset(locations)
    fields["permissions"] = frozenset(fields["permissions"])
    return Principal(**fields)
