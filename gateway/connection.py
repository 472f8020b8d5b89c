"""The I/O shell of a client's WebSocket: an asyncio protocol around websockets' Sans-I/O one.

uvicorn speaks HTTP on the port and hands upgrades to ClientConnection (its `ws` setting takes a class). No
task, queue or ASGI message belongs to a connection: bytes come in, events go to the session and the hub,
and the hub's frames are written straight to the transport.
"""

import asyncio
import math
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, cast

import structlog
from websockets.exceptions import InvalidHandshake, PayloadTooBig
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import Protocol
from websockets.server import ServerProtocol

from gateway.arrivals import Caller
from gateway.frames import pong_frame
from gateway.handshake import Rejection, switching_protocols
from gateway.identifying import Identifying
from gateway.incoming import Incoming, websocket_logger
from gateway.limits import MessageLimit
from gateway.outgoing import Delivery, Outgoing
from gateway.rates import rate_limited
from gateway.realtime import Realtime
from gateway.sockets import taken_bytes
from gateway.turns import TURN_BYTES, Turns
from protocol.errors import Close, CloseCode, ErrorCode, ProtocolError
from protocol.principal import View
from protocol.session import Authenticate, CloseWith, Event, Leave, Send, Session, Subscribe
from protocol.subscription import Subscription

__all__ = ["ClientConnection"]

log = structlog.get_logger(__name__)

# A peer that does not answer our close frame is dropped after this, in s.
CLOSE_TIMEOUT_S: Final = 5.0
# One that goes on sending regardless is dropped after this, in s: it has been told why, and is not read.
HANG_UP_S: Final = 1.0


def _no_subprotocol(_: ServerProtocol, __: Sequence[str]) -> None:
    """Which one the answer names is ours to say (gateway.handshake)."""


# Judges requests, and remembers nothing of one that is in order.
_HANDSHAKES: Final = ServerProtocol(select_subprotocol=_no_subprotocol, logger=websocket_logger)


class ClientConnection(Identifying):
    """One client. The constructor's signature is uvicorn's."""

    # A hundred thousand of these are most of a process: what is seldom needed is made when it is.
    __slots__ = (
        "_admitted",
        "_deliveries",
        "_incoming",
        "_messages",
        "_realtime",
        "_refusal",
        "_server_connections",
        "_shaken",
        "_taken_bytes",
        "_turns",
        "address",
        "opened_at",
        "session_id",
        "stalled_since",
        "transport",
    )

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any]) -> None:
        realtime: Realtime = app_state["realtime"]
        limits = realtime.limits
        self.address = ""
        self.session_id = ""
        self.opened_at = time.monotonic()
        self.stalled_since: float | None = None
        self._taken_bytes = 0  # when it was last looked whether it takes anything
        self._realtime = realtime
        self._server_connections: set[Any] = server_state.connections
        self._shaken = False  # the handshake is over, and well
        self._refusal: ServerProtocol | None = None  # it is over, and has failed
        self._incoming: Incoming | None = None  # while there is something to remember
        self.transport: asyncio.Transport
        self._session: Session | None = None
        self._outgoing: Outgoing | None = None
        self._deliveries: dict[Subscription, Delivery] = {}
        self._messages = MessageLimit(limits.messages_per_s) if limits.messages_per_s else None
        self._turns: Turns | None = None  # what was received at once and is more than one
        self._timer: asyncio.TimerHandle | None = None
        self._admitted = False
        self._held = None

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._server_connections.add(self)
        pending_bytes = self._realtime.limits.pending_bytes
        self.transport.set_write_buffer_limits(high=pending_bytes, low=pending_bytes // 4)

    def data_received(self, data: bytes) -> None:
        protocol = self._protocol
        if protocol is not None and protocol.eof_sent:
            return  # nothing it says matters any more
        if self._turns is not None:
            self._turns.unread += data
        elif len(data) <= TURN_BYTES and self._held is None:
            self._receive(data)
        else:
            self.transport.pause_reading()
            self._turns = Turns(data, take=self._receive, done=self._resume_reading)
            self._resume_reading()

    def eof_received(self) -> None:
        """The peer has closed its half; returning None closes ours."""

    def connection_lost(self, exc: Exception | None) -> None:
        if self._outgoing is not None:
            self._outgoing.close()  # first of all: when we return, the descriptor may be another's
        self._server_connections.discard(self)
        self._cancel_timer()
        self._held = None
        if self._turns is not None:
            self._turns.stop()
        if self._session is not None:
            self._leave_all()
            log.info(
                "connection closed",
                session=self.session_id,
                code=self._close_code(),
                seconds=round(time.monotonic() - self.opened_at, 3),
            )
        if self._admitted:
            self._realtime.leave(self)

    def pause_writing(self) -> None:
        """The socket takes no more: items conflate from here on, and the client's requests wait too, so that
        a client that only asks and never reads can not fill our memory with answers."""
        if self._outgoing is not None:
            self._outgoing.pause()
            self.stalled_since = time.monotonic()
            self._taken_bytes = taken_bytes(self.transport)
            self.transport.pause_reading()
            if self._turns is not None:
                self._turns.stop()
            self._realtime.stalled.add(self)

    def resume_writing(self) -> None:
        self.stalled_since = None
        self._realtime.stalled.discard(self)
        if self._outgoing is not None:
            self._outgoing.resume()
            self._resume_reading()

    def shutdown(self) -> None:
        """uvicorn's name for: close now."""
        self.close(Close.RESTART)

    # --- the realtime's side

    @property
    def outgoing(self) -> Outgoing:
        """Of an open connection."""
        return cast("Outgoing", self._outgoing)

    def close(self, code: CloseCode) -> None:
        """Starts the closing handshake; a peer that does not answer is dropped."""
        if not self._shaken:
            self.transport.abort()
            return
        incoming = self._hear()
        if not incoming.closing:
            incoming.protocol.send_close(code.number, code.name)
            self._leave_all()
            self._flush()
            self._drop_after(CLOSE_TIMEOUT_S)

    def has_progressed(self) -> bool:
        """Whether a stalled client has taken anything since the last call."""
        taken = taken_bytes(self.transport)
        progressed = taken > self._taken_bytes
        self._taken_bytes = taken
        return progressed

    # --- reading

    @property
    def _protocol(self) -> Protocol | None:
        """Who has something to remember, or to say, about the bytes."""
        return self._refusal if self._incoming is None else self._incoming.protocol

    def _hear(self) -> Incoming:
        if self._incoming is None:
            self._incoming = Incoming(self._realtime.limits.max_message_bytes)
        return self._incoming

    def _resume_reading(self) -> None:
        if self._held is not None or (self._incoming is not None and self._incoming.hung_up):
            return
        if self.stalled_since is not None and not self.outgoing.closed:
            return  # until its answers are taken
        if self._turns is not None and self._turns.unread:
            self._turns.next()
        else:
            self._turns = None
            self.transport.resume_reading()

    def _receive(self, data: bytes) -> None:
        incoming = self._hear()
        if incoming.closing and incoming.too_late(data):
            self._hang_up(Close.TOO_MANY)
            return
        for frame in incoming.receive(data):
            self._frame_received(incoming, frame)
        if isinstance(incoming.protocol.parser_exc, PayloadTooBig):
            self._too_large()
        self._flush()
        if incoming.idle:
            self._incoming = None

    # --- handshake

    def shake_hands(self, request: Request, caller: Caller) -> None:
        """The first that is called after connection_made(), with a request that was read already."""
        self.address = caller.address
        self._admitted = caller.admitted
        answer = self._realtime.read_handshake(request.path, request.headers)
        if isinstance(answer, Rejection):
            self._reject(answer, self._realtime.retry_after_s)
            return
        try:
            accept, _, _ = _HANDSHAKES.process_request(request)
        except InvalidHandshake:
            failed = self._fail_handshake()
            failed.send_response(failed.accept(request))  # which words the refusal
            self._flush()
            return
        refusal = caller.refusal
        if refusal is None and not self._admitted:  # a client behind a proxy is known only now
            refusal = self._realtime.admit(self)
            self._admitted = refusal is None
        if refusal is not None and not refusal.told:
            message = "too many connections from this address"
            self._reject(Rejection(HTTPStatus.TOO_MANY_REQUESTS, message, ""), refusal.retry_after_s)
            return
        self._shaken = True
        self.transport.write(switching_protocols(accept, answer.subprotocol))
        self.session_id = secrets.token_hex(8)
        if refusal is None:
            self._identify(answer)
        else:
            self._begin(answer.dialect, None)
            self._send_off(refusal)

    def _reject(self, rejection: Rejection, retry_after_s: float) -> None:
        failed = self._fail_handshake()
        response: Response = failed.reject(rejection.status, rejection.message + "\n")
        if rejection.status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
            response.headers["Retry-After"] = str(math.ceil(retry_after_s))
        failed.send_response(response)
        self._flush()

    def _fail_handshake(self) -> ServerProtocol:
        self._refusal = ServerProtocol(select_subprotocol=_no_subprotocol, logger=websocket_logger)
        return self._refusal

    # --- messages

    def _frame_received(self, incoming: Incoming, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.CLOSE or self._outgoing is None or self._outgoing.closed:
            return
        if self._messages is not None and (wait := self._messages.take()) > 0:
            self._rate_limited(wait)
            return
        if opcode is Opcode.PING:
            self._outgoing.write(pong_frame(bytes(frame.data)))
            return
        if opcode is Opcode.PONG:
            return
        message = incoming.message(frame)
        if message is not None:
            self._message_received(*message)

    def _message_received(self, data: bytes, binary: bool) -> None:
        session = cast("Session", self._session)
        if self._held is not None and not binary:
            self._held.append(data)
            return
        if binary:
            self._handle(session.receive_binary())
            return
        try:
            data.decode()
        except UnicodeDecodeError:
            self._hear().protocol.fail(Close.INVALID_DATA.number, Close.INVALID_DATA.name)
            return
        self._handle(session.receive(data, now=datetime.now(UTC)))

    def _handle(self, events: list[Event]) -> None:
        outgoing, hub = self.outgoing, self._realtime.hub
        for event in events:
            if outgoing.closed:
                return
            if isinstance(event, Send):
                outgoing.send(event.type, event.payload)
            elif isinstance(event, Subscribe):
                self._subscribe(event)
            elif isinstance(event, Leave):
                hub.leave(self._deliveries.pop(event.subscription))
            elif isinstance(event, Authenticate):
                self._authenticate(event)
            elif isinstance(event, CloseWith):
                self.close(event.code)

    def _subscribe(self, event: Subscribe) -> None:
        delivery = Delivery(event.subscription, self.outgoing, resume=event.resume)
        self._deliveries[event.subscription] = delivery
        # Each topic counts like a message of its own: a hundred fit into one.
        if self._messages is not None and (wait := self._messages.take()) > 0:
            self.refuse(event.subscription, self._too_fast(wait))
            self._struck()
            return
        # The log has nothing of the public view: there, a resume is answered by a snapshot.
        cheap = event.resume is not None and event.subscription.view is View.EXACT
        error = None if cheap else self.rows_error()
        if error is not None:
            self.refuse(event.subscription, error)
            return
        self._realtime.hub.subscribe(delivery)

    def refuse(self, subscription: Subscription, error: ProtocolError) -> None:
        """The hub could not serve a subscription."""
        self._deliveries.pop(subscription, None)
        payload = cast("Session", self._session).refuse(subscription, error)
        if payload is not None:
            self.outgoing.send("error", payload)

    def _rate_limited(self, wait_s: float) -> None:
        """One error a message; a client that goes on regardless is closed."""
        if not self._struck():
            self.outgoing.send("error", self.outgoing.dialect.error(self._too_fast(wait_s)))

    def _struck(self) -> bool:
        """Whether the client has been told often enough; then it is closed."""
        struck_out = cast("MessageLimit", self._messages).strike()
        if struck_out:
            self._hang_up(Close.TOO_MANY)
        return struck_out

    def _too_fast(self, wait_s: float) -> ProtocolError:
        text = "send fewer messages, and subscribe to fewer topics, a second"
        return rate_limited(text, wait_s)

    def _too_large(self) -> None:
        """Names the mistake before the close frame (1009) that the Sans-I/O protocol has queued."""
        if self._outgoing is not None and not self._outgoing.closed:
            limit = self._realtime.limits.max_message_bytes
            error = ProtocolError(ErrorCode.TOO_LARGE, f"a message is up to {limit} bytes")
            self._outgoing.send("error", self._outgoing.dialect.error(error))

    # --- the end

    def _flush(self) -> None:
        """Writes what the Sans-I/O protocol has to say; an empty string at its end means: close our half."""
        protocol = self._protocol
        if protocol is None or not (said := protocol.data_to_send()):
            return
        if data := b"".join(said):
            (self.transport if self._outgoing is None else self._outgoing).write(data)
        if not said[-1]:
            self._leave_all()
            # Half-closed, not closed: closing with unread bytes would reset the connection, and the
            # peer would never see the code (RFC 6455 7.1.1).
            if not self.transport.is_closing():
                if self.transport.can_write_eof():
                    self.transport.write_eof()
                else:  # TLS: it says farewell, and reads on until the peer has said so as well
                    self.transport.close()
            self._drop_after(CLOSE_TIMEOUT_S)

    def _hang_up(self, code: CloseCode) -> None:
        """For a peer that does not stop sending: says why, and reads nothing more."""
        incoming = self._hear()
        incoming.hung_up = True
        incoming.protocol.fail(code.number, code.name)
        self._flush()
        self._drop_after(HANG_UP_S)
        self.transport.pause_reading()

    def _leave_all(self) -> None:
        if self._session is not None:
            for event in self._session.close():
                delivery = self._deliveries.pop(event.subscription, None)
                if delivery is not None:  # else it is of the very message that has ended the connection
                    self._realtime.hub.leave(delivery)
        if self._outgoing is not None:
            self._outgoing.close()
        self._realtime.stalled.discard(self)

    def _drop_after(self, seconds: float) -> None:
        self._cancel_timer()
        self._held = None
        # Reading must go on, or the peer's answer is never seen.
        self._resume_reading()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.transport.abort)

    def _close_code(self) -> int | None:
        """What the client was told; None if it went without a word."""
        sent = None if self._incoming is None else self._incoming.protocol.close_sent
        return None if sent is None else int(sent.code)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
