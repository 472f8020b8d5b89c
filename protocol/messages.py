"""Every message of `inventory.v1` as a frozen model: the documentation, the validation and the source of
`asyncapi.json`. A field that may be left out is left out, never null.

The server's hot path never builds these; a test holds its encoders against them.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints

from protocol.errors import ErrorCode
from protocol.item_models import AnyItem, Count, Epoch, LiveItem, Message, RequestId, Time, TopicName
from protocol.principal import View

__all__ = [
    "CLIENT_MESSAGES",
    "MAX_TOPICS_A_MESSAGE",
    "SERVER_MESSAGES",
    "Auth",
    "AuthExpiring",
    "Authenticated",
    "ClientMessage",
    "Delta",
    "ErrorMessage",
    "Fresh",
    "Heartbeat",
    "Ping",
    "Pong",
    "Publish",
    "Published",
    "Reconnect",
    "ResumePoint",
    "Resumed",
    "ServerMessage",
    "SessionLimits",
    "Snapshot",
    "Stale",
    "Subscribe",
    "Unsubscribe",
    "Unsubscribed",
    "Welcome",
]

MAX_TOPICS_A_MESSAGE: Final = 100


class ResumePoint(Message):
    """A position the client holds completely: the `epoch` and `seq` of the last topic message it applied."""

    epoch: Epoch
    seq: Count


class Auth(Message):
    """Presents new credentials; answered by `authenticated` or `error`."""

    type: Literal["auth"]
    id: RequestId | None = None
    token: Annotated[str, StringConstraints(strict=True, min_length=1), Field(repr=False)]


class Subscribe(Message):
    """Each topic is answered by itself: `snapshot` parts, or `resumed` and deltas, or an `error`."""

    type: Literal["subscribe"]
    id: RequestId | None = None
    topics: Annotated[
        tuple[Annotated[str, Field(strict=True)], ...],
        Field(min_length=1, max_length=MAX_TOPICS_A_MESSAGE, examples=[["product:A", "location:L1"]]),
    ]
    view: View | None = Field(default=None, description="`exact` if the principal may, else `public`")
    resume: dict[str, ResumePoint] | None = Field(
        default=None, description="by topic; of use for `exact` only"
    )


class Unsubscribe(Message):
    """Each topic is answered by `unsubscribed`, held or not; nothing for that topic comes after it."""

    type: Literal["unsubscribe"]
    id: RequestId | None = None
    topics: Annotated[
        tuple[Annotated[str, Field(strict=True)], ...],
        Field(min_length=1, max_length=MAX_TOPICS_A_MESSAGE, examples=[["product:A"]]),
    ]


class Ping(Message):
    type: Literal["ping"]
    id: RequestId | None = None


class Publish(Message):
    """Stock operations, all or nothing; answered by `published` or `error`."""

    type: Literal["publish"]
    id: RequestId | None = None
    idempotency_key: Annotated[str, StringConstraints(strict=True, min_length=1, max_length=128)]
    operations: tuple[dict[str, Any], ...]


ClientMessage = Auth | Subscribe | Unsubscribe | Ping | Publish
CLIENT_MESSAGES: Final[dict[str, type[ClientMessage]]] = {
    "auth": Auth,
    "subscribe": Subscribe,
    "unsubscribe": Unsubscribe,
    "ping": Ping,
    "publish": Publish,
}


class SessionLimits(Message):
    """What this server allows one connection; 0 is no limit."""

    max_message_bytes: Count = Field(description="bytes of one message to the server")
    max_topics: Count = Field(description="topics held at a time")


class Welcome(Message):
    """The first message of every connection."""

    type: Literal["welcome"]
    protocol: Literal["inventory.v1"]
    session: str = Field(description="names the connection in the server's logs")
    principal: str | None = Field(description="null: nothing but `auth` and `ping` is answered yet")
    heartbeat_s: Annotated[float, Field(gt=0)] = Field(
        description="seconds; hearing nothing for twice as long: reconnect"
    )
    time: Time
    limits: SessionLimits


class Authenticated(Message):
    type: Literal["authenticated"]
    id: RequestId | None = None
    principal: str
    expires_at: Time


class Snapshot(Message):
    """Part 1 replaces everything held for the topic, also an unfinished snapshot; `last` marks the end.

    Items may be newer than `seq`, never older. No part is larger than 64 KiB.
    """

    type: Literal["snapshot"]
    id: RequestId | None = Field(default=None, description="of the `subscribe`")
    topic: TopicName
    epoch: Epoch
    seq: Count
    part: Annotated[int, Field(strict=True, ge=1)]
    last: bool
    items: tuple[LiveItem, ...]


class Resumed(Message):
    """The copy at this position is good; what it missed follows as deltas."""

    type: Literal["resumed"]
    id: RequestId | None = Field(default=None, description="of the `subscribe`")
    topic: TopicName
    epoch: Epoch
    seq: Count


class Delta(Message):
    """The copy that has applied this has applied everything through `seq`, which may jump, never go down."""

    type: Literal["delta"]
    topic: TopicName
    epoch: Epoch
    seq: Count
    items: tuple[AnyItem, ...]


class Unsubscribed(Message):
    """Nothing for the topic comes after this. With a `reason` the server ended the subscription."""

    type: Literal["unsubscribed"]
    id: RequestId | None = Field(default=None, description="of the `unsubscribe`")
    topic: str
    reason: str | None = Field(default=None, examples=["scope_changed"])


class Pong(Message):
    type: Literal["pong"]
    id: RequestId | None = None
    time: Time


class Heartbeat(Message):
    """Sent when there was nothing else to say for `heartbeat_s`."""

    type: Literal["heartbeat"]
    time: Time
    stale: bool
    as_of: Time | None = Field(
        default=None, description="everything committed before it has arrived; absent: not yet known"
    )


class Stale(Message):
    """The way from the database is not proven live: every copy of this connection may be behind."""

    type: Literal["stale"]
    since: Time


class Fresh(Message):
    """The copies are caught up again: everything committed before `as_of` has arrived."""

    type: Literal["fresh"]
    as_of: Time


class AuthExpiring(Message):
    """Send new credentials with `auth` before then, else the connection closes with 4401."""

    type: Literal["auth_expiring"]
    expires_at: Time


class Reconnect(Message):
    """This replica is going away: connect again, elsewhere, after this many milliseconds."""

    type: Literal["reconnect"]
    after_ms: Count


class Published(Message):
    type: Literal["published"]
    id: RequestId | None = None
    results: tuple[dict[str, Any], ...]


class ErrorMessage(Message):
    """One request, or one topic of it, failed; the connection stays open unless a close follows."""

    type: Literal["error"]
    id: RequestId | None = Field(default=None, description="of the request, where it had a valid one")
    topic: str | None = Field(default=None, description="the topic that failed, cut to 128 characters")
    code: ErrorCode
    message: str = Field(description="for people: what to do next")
    retry_after_ms: Count | None = Field(default=None, description="milliseconds; always with `unavailable`")


ServerMessage = (
    Welcome
    | Authenticated
    | Snapshot
    | Resumed
    | Delta
    | Unsubscribed
    | Pong
    | Heartbeat
    | Stale
    | Fresh
    | AuthExpiring
    | Reconnect
    | Published
    | ErrorMessage
)
SERVER_MESSAGES: Final[dict[str, type[ServerMessage]]] = {
    "welcome": Welcome,
    "authenticated": Authenticated,
    "snapshot": Snapshot,
    "resumed": Resumed,
    "delta": Delta,
    "unsubscribed": Unsubscribed,
    "pong": Pong,
    "heartbeat": Heartbeat,
    "stale": Stale,
    "fresh": Fresh,
    "auth_expiring": AuthExpiring,
    "reconnect": Reconnect,
    "published": Published,
    "error": ErrorMessage,
}
