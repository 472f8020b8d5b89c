"""One connection's side of the conversation, without I/O: bytes in, events out."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, cast

from protocol.dialects import Dialect
from protocol.envelope import Position
from protocol.errors import Close, CloseCode, ErrorCode, FatalMessage, ProtocolError
from protocol.messages import (
    MAX_TOPICS_A_MESSAGE,
    Auth,
    ClientMessage,
    Ping,
    Publish,
    ResumePoint,
    SessionLimits,
    Unsubscribe,
)
from protocol.messages import Subscribe as SubscribeMessage
from protocol.principal import Principal
from protocol.subscription import Signal, Subscription, SubscriptionState
from protocol.topics import parse_topic

__all__ = [
    "Authenticate",
    "CloseWith",
    "Event",
    "Leave",
    "PublishOperations",
    "Send",
    "Session",
    "SessionLimits",
    "Signal",
    "Subscribe",
    "Subscription",
    "SubscriptionState",
]

# What a build lacks does not come back in a second.
_NOT_BUILT_RETRY_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Send:
    """`type` is that of the message in the payload, for whoever counts."""

    payload: bytes
    type: str


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Send the topic's snapshot; or, with `resume`, what came after it, if that is still known.

    The public view has no log to resume from: for it, `resume` says what the snapshot must not be behind of.
    """

    subscription: Subscription
    resume: Position | None


@dataclass(frozen=True, slots=True)
class Leave:
    """The subscription is CLOSED: forget it, send nothing more for it."""

    subscription: Subscription


@dataclass(frozen=True, slots=True)
class Authenticate:
    """Only where `auth_available`: check the token, then call `session.authenticate` or send an error."""

    id: str | None
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class PublishOperations:
    """Only where `publish_available`."""

    message: Publish


@dataclass(frozen=True, slots=True)
class CloseWith:
    """Close the connection once the events before have been sent; the session answers nothing more."""

    code: CloseCode


Event = Send | Subscribe | Leave | Authenticate | PublishOperations | CloseWith


class Session:
    """What one connection holds and may do; told of bytes and names, it answers with events.

    It moves a subscription only to CLOSED; the hub signals the rest. `principal` None: credentials are
    needed and have not come yet.
    """

    __slots__ = (
        "_auth_available",
        "_heard",
        "_publish_available",
        "closing",
        "dialect",
        "limits",
        "principal",
        "subscriptions",
    )

    def __init__(
        self,
        dialect: Dialect,
        *,
        limits: SessionLimits,
        principal: Principal | None,
        auth_available: bool = False,
        publish_available: bool = False,
        heard: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`heard` is called with the type of each message, `other` for one that is none of ours."""
        self.dialect = dialect
        self.limits = limits
        self.principal = principal
        self.subscriptions: dict[str, Subscription] = {}
        self.closing = False
        self._auth_available = auth_available
        self._heard = heard
        self._publish_available = publish_available

    def welcome(self, *, session: str, heartbeat_s: float, now: datetime) -> bytes:
        """The first payload of the connection; `session` is the connection's id."""
        return self.dialect.welcome(
            session=session,
            principal=None if self.principal is None else self.principal.name,
            heartbeat_s=heartbeat_s,
            now=now,
            limits=self.limits,
        )

    def receive(self, data: bytes, *, now: datetime) -> list[Event]:
        """What to do about one text message. Raises nothing, whatever the bytes are."""
        limit = self.limits.max_message_bytes
        if limit and len(data) > limit:
            message = f"a message is up to {limit} bytes; send several smaller ones"
            return [] if self.closing else [self._error(ProtocolError(ErrorCode.TOO_LARGE, message))]
        events: list[Event] = []
        for part in self.dialect.split(data):
            if self.closing:
                break
            events += self._receive_one(part, now)
        return events

    def receive_binary(self) -> list[Event]:
        """What to do about a binary message: there are none in this protocol."""
        if self.closing:
            return []
        return self._fatal(FatalMessage(ErrorCode.BAD_MESSAGE, "send text frames, one JSON object each"))

    def subscribe_on_open(self, topics: Iterable[str]) -> list[Event]:
        """The topics named in the URL: a `subscribe` without an id. Empty names are passed over."""
        names = tuple(name for name in topics if name)
        if not names:
            return []
        if self.principal is None:
            return [self._error(_unauthenticated(None))]
        if len(names) > MAX_TOPICS_A_MESSAGE:
            message = (
                f"name up to {MAX_TOPICS_A_MESSAGE} topics in the URL, and subscribe to the others by message"
            )
            return [self._error(ProtocolError(ErrorCode.TOO_MANY_TOPICS, message))]
        return self._subscribe(SubscribeMessage(type="subscribe", topics=names), self.principal)

    def authenticate(self, id: str | None, principal: Principal) -> list[Event]:  # noqa: A002 - the wire's own name
        """The token of an `auth` is good. What the new credentials do not cover any more ends at once."""
        held = self.principal
        if held is not None and held.expires_at is not None and not held.is_same(principal):
            text = "this connection is another subject's or vendor's; open a new one"
            return [self._error(ProtocolError(ErrorCode.FORBIDDEN, text, id=id))]
        self.principal = principal
        expires_at = datetime.fromtimestamp(principal.expires_at or 0.0, UTC)
        answer = self.dialect.authenticated(id, principal.name, expires_at)
        events: list[Event] = [Send(answer, "authenticated")]
        for subscription in list(self.subscriptions.values()):
            topic = parse_topic(subscription.topic)
            if principal.still_covers(topic, subscription.view, subscription.scope):
                continue
            said = cast("bytes", self.revoke(subscription, "scope_changed"))  # it is held, so something is
            events += [Leave(subscription), Send(said, "unsubscribed")]
        return events

    def refuse(self, subscription: Subscription, error: ProtocolError) -> bytes | None:
        """Ends a subscription with an error; the payload that says so, or None if it is no longer held."""
        if not self._end(subscription, Signal.REFUSED):
            return None
        return self.dialect.error(error.about(id=subscription.id, topic=subscription.topic))

    def revoke(self, subscription: Subscription, reason: str) -> bytes | None:
        """Ends a subscription the principal may no longer have; as `refuse`, with `unsubscribed`."""
        if not self._end(subscription, Signal.LEFT):
            return None
        return self.dialect.unsubscribed(None, subscription.topic, reason)

    def close(self) -> list[Leave]:
        """The connection is gone: what to leave. Nothing is answered any more."""
        self.closing = True
        held = list(self.subscriptions.values())
        return [Leave(subscription) for subscription in held if self._end(subscription, Signal.LEFT)]

    def _receive_one(self, data: bytes, now: datetime) -> list[Event]:
        try:
            message = self.dialect.decode(data)
        except FatalMessage as error:
            self._heard("other")
            return self._fatal(error)
        except ProtocolError as error:
            self._heard("other")
            # Before credentials only a message that can not be read at all is told anything else.
            veiled = self.principal is None and error.code is not ErrorCode.BAD_MESSAGE
            return [self._error(_unauthenticated(error.id) if veiled else error)]
        self._heard(message.type)
        return self._answer(message, now)

    def _answer(self, message: ClientMessage, now: datetime) -> list[Event]:
        if isinstance(message, Ping):
            return [Send(self.dialect.pong(message.id, now), "pong")]
        if isinstance(message, Auth):
            if not self._auth_available:
                return [self._error(_not_built(message.id, "this server takes no tokens"))]
            return [Authenticate(message.id, message.token)]
        if self.principal is None:
            return [self._error(_unauthenticated(message.id))]
        if isinstance(message, SubscribeMessage):
            return self._subscribe(message, self.principal)
        if isinstance(message, Unsubscribe):
            return self._unsubscribe(message)
        if not self._publish_available:
            return [self._error(_not_built(message.id, "this server takes no operations"))]
        return [PublishOperations(message)]

    def _subscribe(self, message: SubscribeMessage, principal: Principal) -> list[Event]:
        resume = message.resume or {}

        def one(name: str) -> list[Event]:
            topic = parse_topic(name)
            view = principal.view_for(topic, message.view)
            held = self.subscriptions.get(name)
            limit = self.limits.max_topics
            if held is None and limit and len(self.subscriptions) >= limit:
                text = f"a connection holds up to {limit} topics; unsubscribe from some first"
                raise ProtocolError(ErrorCode.TOO_MANY_TOPICS, text, topic=name)
            new = Subscription(name, message.id, view, principal.scope_for(topic, view))
            left = self._leave(name)
            self.subscriptions[name] = new
            return [*left, Subscribe(new, _position(resume, name))]

        return self._each(message.topics, message.id, one)

    def _unsubscribe(self, message: Unsubscribe) -> list[Event]:
        def one(name: str) -> list[Event]:
            parse_topic(name)
            return [*self._leave(name), Send(self.dialect.unsubscribed(message.id, name), "unsubscribed")]

        return self._each(message.topics, message.id, one)

    def _each(
        self, topics: Iterable[str], request_id: str | None, one: Callable[[str], list[Event]]
    ) -> list[Event]:
        """Each topic succeeds or fails by itself; a topic named twice is one topic."""
        events: list[Event] = []
        for name in dict.fromkeys(topics):
            try:
                events += one(name)
            except ProtocolError as error:
                events.append(self._error(error.about(id=request_id)))
        return events

    def _leave(self, name: str) -> list[Leave]:
        held = self.subscriptions.get(name)
        return [Leave(held)] if held is not None and self._end(held, Signal.LEFT) else []

    def _end(self, subscription: Subscription, signal: Signal) -> bool:
        if self.subscriptions.get(subscription.topic) is not subscription:
            return False
        del self.subscriptions[subscription.topic]
        subscription.signal(signal)
        return True

    def _error(self, error: ProtocolError) -> Send:
        return Send(self.dialect.error(error), "error")

    def _fatal(self, error: FatalMessage) -> list[Event]:
        self.closing = True
        return [self._error(error), CloseWith(Close.BAD_MESSAGE)]


def _position(resume: Mapping[str, ResumePoint], name: str) -> Position | None:
    point = resume.get(name)
    return Position(point.epoch, point.seq) if point is not None else None


def _unauthenticated(request_id: str | None) -> ProtocolError:
    return ProtocolError(ErrorCode.UNAUTHENTICATED, "send `auth` with a token first", id=request_id)


def _not_built(request_id: str | None, message: str) -> ProtocolError:
    return ProtocolError(ErrorCode.UNAVAILABLE, message, id=request_id, retry_after_ms=_NOT_BUILT_RETRY_MS)
