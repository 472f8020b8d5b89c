"""What connections ask about credentials: who comes in, whose end is near, who has to go."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Final, Protocol

import structlog

from gateway.admission import FULL_RETRY_S, Refusal
from gateway.auth.authority import Authority
from gateway.auth.errors import UnknownKey
from gateway.auth.expiry import ExpiryHeap
from gateway.outgoing import Outgoing
from protocol.errors import Close, CloseCode, ErrorCode, ProtocolError
from protocol.principal import Principal

__all__ = ["Credentials", "Entrance", "Guest", "Tickets"]

log = structlog.get_logger(__name__)

# The heap is looked at so often at least, in s: clocks are set, and new ends come in.
TICK_S: Final = 0.5
_RETRY_MS: Final = 5000

# Who somebody is; None: that has to be said yet; or what is wrong with the credentials.
Answer = Callable[[Principal | ProtocolError | None], None]


class Credentials(Protocol):
    """What a handshake brings: a token ("" for one that can not be read), a ticket, or neither."""

    @property
    def bearer(self) -> str | None: ...
    @property
    def ticket(self) -> str | None: ...


class Tickets(Protocol):
    async def redeem(self, ticket: str) -> Principal:
        """Whom the ticket was made for; a second time it is none. Raises ProtocolError."""
        ...


class Guest(Protocol):
    """A connection as this module sees it (gateway.connection.ClientConnection)."""

    @property
    def outgoing(self) -> Outgoing: ...
    def close(self, code: CloseCode) -> None: ...


class Entrance:
    """One per process; run() owns the waiting for keys and tickets, and the end of credentials."""

    def __init__(
        self,
        *,
        anonymous: Principal | None,
        authority: Authority | None = None,
        tickets: Tickets | None = None,
        max_unauthenticated: int = 0,
        max_per_principal: int = 0,
        leeway_s: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`anonymous`: who comes without credentials; None: they are needed. `authority` None: there are no
        tokens. `max_unauthenticated`: of connections that have not said yet who they are;
        `max_per_principal`: of one subject with credentials. 0: any number. `clock`: seconds since 1970."""
        self._anonymous = anonymous
        self._authority = authority
        self._tickets = tickets
        self._max_unauthenticated = max_unauthenticated
        self._max_per_principal = max_per_principal
        self._clock = clock
        self._ends: ExpiryHeap[Guest] = ExpiryHeap(leeway_s=leeway_s)
        self._unauthenticated: set[Guest] = set()
        self._by_subject: dict[str, int] = {}  # connections
        self._asking = 0
        self._tasks: asyncio.TaskGroup | None = None
        self.refused = {"unauthenticated": 0, "principal": 0}

    @property
    def takes_tokens(self) -> bool:
        return self._authority is not None

    # --- who comes

    def identify(self, credentials: Credentials, answer: Answer) -> None:
        """Calls `answer` at once, or later where somebody has to be asked."""
        if credentials.bearer is not None:
            self.check(credentials.bearer, answer)
        elif credentials.ticket is not None:
            self._redeem(credentials.ticket, answer)
        else:
            answer(self._anonymous)

    def check(self, token: str, answer: Answer) -> None:
        """Of a token that came as a message or with the handshake; see identify()."""
        authority = self._authority
        if authority is None:
            text = "this server takes no tokens; connect without one"
            answer(ProtocolError(ErrorCode.UNAUTHENTICATED, text))
            return
        try:
            principal = authority.check_nowait(token)
        except UnknownKey:
            self._ask(authority.check(token), answer)
        except ProtocolError as error:
            answer(error)
        else:
            answer(principal)

    def _redeem(self, ticket: str, answer: Answer) -> None:
        if self._tickets is None:
            answer(ProtocolError(ErrorCode.UNAUTHENTICATED, "this server gives no tickets"))
        else:
            self._ask(self._tickets.redeem(ticket), answer)

    def _ask(self, question: Awaitable[Principal], answer: Answer) -> None:
        limit = self._max_unauthenticated
        work = self._answer_later(question, answer)
        if self._tasks is None or (limit and self._asking >= limit):
            work.close()
            text = "credentials can not be checked at the moment; try again"
            answer(ProtocolError(ErrorCode.UNAVAILABLE, text, retry_after_ms=_RETRY_MS))
            return
        self._asking += 1
        self._tasks.create_task(work)

    async def _answer_later(self, question: Awaitable[Principal], answer: Answer) -> None:
        identity: Principal | ProtocolError
        try:
            identity = await question
        except ProtocolError as error:
            identity = error
        except Exception:
            log.exception("credentials could not be checked")
            identity = ProtocolError(ErrorCode.INTERNAL, "try again")
        finally:
            self._asking -= 1
        answer(identity)

    # --- who is here

    def settle(self, guest: Guest, principal: Principal | None) -> Refusal | None:
        """The guest is this principal from here on, or has to say yet who it is; else why it may not stay."""
        if principal is None:
            limit = self._max_unauthenticated
            if limit and len(self._unauthenticated) >= limit:
                return self._refuse("unauthenticated")
            self._unauthenticated.add(guest)
            return None
        self._unauthenticated.discard(guest)
        if principal.expires_at is None:
            self._count_out(self._ends.forget(guest))
            return None
        if not self._ends.holds(guest):  # else it is renewed, which keeps the subject
            here = self._by_subject.get(principal.name, 0)
            if self._max_per_principal and here >= self._max_per_principal:
                return self._refuse("principal")
            self._by_subject[principal.name] = here + 1
        self._ends.hold(guest, principal, self._clock())
        self._look()
        return None

    def leave(self, guest: Guest) -> None:
        self._unauthenticated.discard(guest)
        self._count_out(self._ends.forget(guest))

    def revoked(self, is_revoked: Callable[[Principal], bool]) -> int:
        """Sends away whose credentials were revoked; how many."""
        found = [guest for guest, principal in self._ends.held() if is_revoked(principal)]
        for guest in found:
            self._count_out(self._ends.forget(guest))
            guest.close(Close.UNAUTHENTICATED)
        return len(found)

    def _refuse(self, reason: str) -> Refusal:
        self.refused[reason] += 1
        return Refusal(reason, FULL_RETRY_S)

    def _count_out(self, principal: Principal | None) -> None:
        if principal is None:
            return
        left = self._by_subject[principal.name] - 1
        if left:
            self._by_subject[principal.name] = left
        else:
            del self._by_subject[principal.name]

    def statistics(self) -> dict[str, float | Mapping[str, float]]:
        """In the names of gateway.metrics."""
        return {
            "gateway_authenticated_connections": len(self._ends),
            "gateway_unauthenticated_connections": len(self._unauthenticated),
        }

    # --- what goes on meanwhile

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                while True:
                    self._look()
                    await asyncio.sleep(min(TICK_S, max(0.01, self._ends.next_at() - self._clock())))
            finally:
                self._tasks = None

    def _look(self) -> None:
        for due in self._ends.due(self._clock()):
            if due.ended:
                self._count_out(due.principal)
                due.holder.close(Close.UNAUTHENTICATED)
                continue
            outgoing = due.holder.outgoing
            outgoing.send("auth_expiring", outgoing.dialect.auth_expiring(_moment(due.principal)))


def _moment(principal: Principal) -> datetime:
    return datetime.fromtimestamp(principal.expires_at or 0.0, UTC)
