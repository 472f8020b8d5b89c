"""Every named error and close code of the contract, in one place."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, Self

__all__ = ["CLOSE_CODES", "Close", "CloseCode", "ErrorCode", "FatalMessage", "ProtocolError"]


class ErrorCode(StrEnum):
    """The `code` of an `error` message, and of an HTTP problem."""

    BAD_MESSAGE = "bad_message"
    TOO_LARGE = "too_large"
    UNKNOWN_TYPE = "unknown_type"
    UNKNOWN_TOPIC = "unknown_topic"
    NOT_FOUND = "not_found"
    FORBIDDEN = "forbidden"
    UNAUTHENTICATED = "unauthenticated"
    TOKEN_EXPIRED = "token_expired"
    RATE_LIMITED = "rate_limited"
    TOO_MANY_TOPICS = "too_many_topics"
    TOPIC_TOO_LARGE = "topic_too_large"
    UNAVAILABLE = "unavailable"
    CONFLICT = "conflict"
    INSUFFICIENT_STOCK = "insufficient_stock"
    INTERNAL = "internal"


class ProtocolError(Exception):
    """A request that can not be served, told to the peer as one `error` message.

    It is the peer's fault unless the code is `unavailable` or `internal`. The connection stays open.
    `message` says what to do next and never carries internal detail. `retry_after_ms` is 1000 for an
    `unavailable` that does not know better: the contract promises the field there.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        id: str | None = None,  # noqa: A002 - the wire's own name
        topic: str | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.id = id
        self.topic = topic
        if retry_after_ms is None and code is ErrorCode.UNAVAILABLE:
            retry_after_ms = 1000
        self.retry_after_ms = retry_after_ms

    def about(self, *, id: str | None, topic: str | None = None) -> Self:  # noqa: A002 - the wire's own name
        """The same error, told about this request; a topic it already names stays."""
        return type(self)(
            self.code,
            self.message,
            id=id,
            topic=self.topic if topic is None else topic,
            retry_after_ms=self.retry_after_ms,
        )


class FatalMessage(ProtocolError):
    """What the peer sent is no message at all: it is told so, then the connection closes with 4400."""


Advice = Literal["reconnect", "reconnect later", "fix the client", "get new credentials", "give up"]


@dataclass(frozen=True, slots=True)
class CloseCode:
    """A WebSocket close code: its number, the reason sent with it, and what a client should do."""

    number: int
    name: str
    advice: Advice
    meaning: str


class Close:
    """The close codes the server sends. Never 1000 of its own will, never 1011 for a client's mistake."""

    PROTOCOL_ERROR: Final = CloseCode(1002, "protocol error", "fix the client", "framing (RFC 6455 7.4.1)")
    INVALID_DATA: Final = CloseCode(1007, "invalid data", "fix the client", "a text frame that is not UTF-8")
    TOO_BIG: Final = CloseCode(1009, "message too big", "fix the client", "a message above max_message_bytes")
    RESTART: Final = CloseCode(1012, "service restart", "reconnect", "this replica drains or restarts")
    OVERLOADED: Final = CloseCode(
        1013, "try again later", "reconnect later", "overloaded, or the client reads too slowly"
    )
    BAD_MESSAGE: Final = CloseCode(
        4400, "bad message", "fix the client", "a binary frame, or a text frame that is no JSON object"
    )
    UNAUTHENTICATED: Final = CloseCode(
        4401, "unauthenticated", "get new credentials", "credentials missing, invalid or expired"
    )
    FORBIDDEN: Final = CloseCode(4403, "forbidden", "give up", "a principal that may not be here")
    AUTH_TIMEOUT: Final = CloseCode(
        4408, "no credentials in time", "get new credentials", "no `auth` in time"
    )
    TOO_MANY: Final = CloseCode(4429, "too many", "reconnect later", "too many connections or messages")


CLOSE_CODES: Final = {code.number: code for code in vars(Close).values() if isinstance(code, CloseCode)}
