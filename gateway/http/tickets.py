"""`POST /v1/tickets`: for clients that can send neither a header nor a message before they connect."""

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.http.credentials import Identification
from gateway.http.limiting import RequestLimits
from gateway.http.ports import Tickets
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["TicketApi"]


class TicketApi:
    def __init__(self, tickets: Tickets | None, *, identify: Identification, limits: RequestLimits) -> None:
        """Without tokens there are no tickets."""
        self._tickets = tickets
        self._identify = identify
        self._limits = limits

    def routes(self) -> list[Route]:
        return [Route("/v1/tickets", self.issue, methods=["POST"])]

    async def issue(self, request: Request) -> Response:
        principal = await self._identify(request)
        if self._tickets is None or principal.expires_at is None:
            raise ProtocolError(
                ErrorCode.UNAUTHENTICATED, "a ticket stands for a token: send one as Authorization: Bearer"
            )
        await self._limits.ticket(request, principal)
        ticket = await self._tickets.issue(principal)
        body = {"ticket": ticket.text, "expires_in": ticket.expires_in_s}
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return Response(orjson.dumps(body), 201, headers, "application/json")
