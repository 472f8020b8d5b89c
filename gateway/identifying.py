"""The part of a connection that has to do with who its client is."""

import asyncio
import math
from datetime import UTC, datetime
from functools import partial
from typing import cast

import structlog

from gateway.admission import Refusal
from gateway.handshake import Handshake
from gateway.outgoing import Outgoing
from gateway.rates import RateKind, holder, rate_limited
from gateway.realtime import Realtime
from gateway.server import WebSocketProtocol
from gateway.sockets import direct_fd
from gateway.turns import Turns
from protocol.dialects import Dialect
from protocol.errors import Close, CloseCode, ErrorCode, ProtocolError
from protocol.principal import Principal
from protocol.session import Authenticate, Event, Session
from protocol.subscription import Subscription

__all__ = ["Identifying"]

log = structlog.get_logger(__name__)


class Identifying(WebSocketProtocol):
    """What gateway.connection.ClientConnection is made of besides; it has the attributes and the rest.

    Tokens are checked at once where the key is known. Else somebody is asked, and meanwhile nothing more is
    read of the client: what it has sent already waits in `_held`, and is answered in its order.
    """

    __slots__ = ("_held", "_outgoing", "_session", "_timer")

    address: str
    session_id: str
    stalled_since: float | None
    transport: asyncio.Transport
    _held: list[bytes] | None  # None: nobody is being asked
    _outgoing: Outgoing | None
    _realtime: Realtime
    _session: Session | None
    _timer: asyncio.TimerHandle | None
    _turns: Turns | None

    @property
    def outgoing(self) -> Outgoing:
        raise NotImplementedError

    def close(self, code: CloseCode) -> None:
        raise NotImplementedError

    def _handle(self, events: list[Event]) -> None:
        raise NotImplementedError

    def _message_received(self, data: bytes, binary: bool) -> None:
        raise NotImplementedError

    def _resume_reading(self) -> None:
        raise NotImplementedError

    def _cancel_timer(self) -> None:
        raise NotImplementedError

    def has_progressed(self) -> bool:
        raise NotImplementedError

    def refuse(self, subscription: Subscription, error: ProtocolError) -> None:
        raise NotImplementedError

    @property
    def holder(self) -> str:
        return holder(None if self._session is None else self._session.principal, self.address)

    def charge_rows(self, rows: int) -> None:
        """What a snapshot costs is known when it is sent: the next one waits for it."""
        rates = self._realtime.rates
        if RateKind.ROWS in rates.limited:
            rates.charge(RateKind.ROWS, self.holder, rows)

    def rows_error(self) -> ProtocolError | None:
        rates = self._realtime.rates
        wait_s = rates.wait_s(RateKind.ROWS, self.holder) if RateKind.ROWS in rates.limited else 0.0
        return (
            rate_limited("snapshots of too many rows; subscribe again later", wait_s) if wait_s > 0 else None
        )

    def _identify(self, handshake: Handshake) -> None:
        self._held = []
        self._realtime.entrance.identify(handshake, partial(self._identified, handshake))
        self._wait_for_identity()

    def _identified(self, handshake: Handshake, identity: Principal | ProtocolError | None) -> None:
        """Bad credentials are told after `welcome`: browsers can not read the status of a refused upgrade."""
        if self._held is None:
            return  # gone meanwhile
        realtime = self._realtime
        principal = None if isinstance(identity, ProtocolError) else identity
        session = self._begin(handshake.dialect, principal)
        if isinstance(identity, ProtocolError):
            self._turn_away(identity)
            return
        refusal = realtime.entrance.settle(self, principal)
        if refusal is not None:
            self._send_off(refusal)
            return
        realtime.opened(self)
        if principal is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(realtime.auth_timeout_s, self.close, Close.AUTH_TIMEOUT)
        self._handle(session.subscribe_on_open(handshake.topics))
        self._go_on()

    def _begin(self, dialect: Dialect, principal: Principal | None) -> Session:
        realtime = self._realtime
        outgoing = self._outgoing = Outgoing(
            self.transport, dialect, realtime.metrics, owner=self, fd=direct_fd(self.transport)
        )
        session = self._session = realtime.make_session(dialect, principal)
        outgoing.send(
            "welcome",
            session.welcome(session=self.session_id, heartbeat_s=realtime.heartbeat_s, now=datetime.now(UTC)),
        )
        log.info("connection open", session=self.session_id, address=self.address)
        return session

    def _send_off(self, refusal: Refusal) -> None:
        """There are too many: says so, and when to come back. Browsers can not read the status of a refused
        upgrade."""
        error = ProtocolError(
            ErrorCode.RATE_LIMITED,
            "too many connections; come back later",
            retry_after_ms=math.ceil(refusal.retry_after_s * 1000),
        )
        self.outgoing.send("error", self.outgoing.dialect.error(error))
        self.close(Close.TOO_MANY)

    def _authenticate(self, event: Authenticate) -> None:
        self._held = []
        self._realtime.rates.take(RateKind.AUTH, self.holder, partial(self._check, event))
        self._wait_for_identity()

    def _check(self, event: Authenticate, wait_s: float) -> None:
        session = cast("Session", self._session)
        if self._held is None or session.closing:
            return  # gone meanwhile
        if wait_s <= 0:
            self._realtime.entrance.check(event.token, partial(self._authenticated, event.id))
            return
        error = rate_limited("too many tokens; send this one again later", wait_s).about(id=event.id)
        self.outgoing.send("error", self.outgoing.dialect.error(error))
        if session.principal is None:
            self.close(Close.TOO_MANY)  # it can do nothing else meanwhile
        else:
            self._go_on()

    def _authenticated(self, request_id: str | None, identity: Principal | ProtocolError | None) -> None:
        session = cast("Session", self._session)
        if self._held is None or session.closing or identity is None:
            return
        if isinstance(identity, ProtocolError):
            error = identity.about(id=request_id)
            if error.code is ErrorCode.UNAVAILABLE and session.principal is not None:
                self.outgoing.send("error", self.outgoing.dialect.error(error))
                self._go_on()
            else:
                self._turn_away(error)
            return
        events = session.authenticate(request_id, identity)
        if session.principal is identity:
            self._cancel_timer()  # of who has no credentials in time
            refusal = self._realtime.entrance.settle(self, identity)
            if refusal is not None:
                self._send_off(refusal)
                return
        self._handle(events)
        self._go_on()

    def _turn_away(self, error: ProtocolError) -> None:
        """One word about it, and the end. Where credentials could not be checked they may do later."""
        self.outgoing.send("error", self.outgoing.dialect.error(error))
        passing = error.code in (ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL)
        self.close(Close.OVERLOADED if passing else Close.UNAUTHENTICATED)

    def _wait_for_identity(self) -> None:
        """Nothing more is read while there is no answer."""
        if self._held is not None:
            self.transport.pause_reading()
            if self._turns is not None:
                self._turns.stop()

    def _go_on(self) -> None:
        """Who this is is known: what came meanwhile, and what comes."""
        held, self._held = self._held or [], None
        while held and not self._waits:  # for there may be another `auth` among them
            self._message_received(held.pop(0), binary=False)
        if self._waits:
            cast("list[bytes]", self._held).extend(held)
        elif not self.transport.is_reading():
            self._resume_reading()

    @property
    def _waits(self) -> bool:
        return self._held is not None
