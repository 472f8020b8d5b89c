"""Why credentials are not accepted."""

from enum import StrEnum

from protocol.errors import ErrorCode, ProtocolError

__all__ = ["BadToken", "NoKeySet", "Reason", "UnknownKey"]


class Reason(StrEnum):
    """Labels of gateway_tokens_refused."""

    MALFORMED = "malformed"
    ALGORITHM = "algorithm"
    KEY = "key"
    SIGNATURE = "signature"
    TYPE = "type"
    EXPIRED = "expired"
    NOT_YET = "not_yet"
    ISSUER = "issuer"
    AUDIENCE = "audience"
    CLAIMS = "claims"
    REVOKED = "revoked"


class BadToken(ProtocolError):
    """Told to the peer in words that hold nothing of the token; where the signature is not good, in one
    sentence whatever was wrong with it."""

    def __init__(self, reason: Reason, message: str = "the token is not accepted; get a new one") -> None:
        expired = reason in (Reason.EXPIRED, Reason.REVOKED)
        super().__init__(ErrorCode.TOKEN_EXPIRED if expired else ErrorCode.UNAUTHENTICATED, message)
        self.reason = reason

    def about(self, *, id: str | None, topic: str | None = None) -> ProtocolError:  # type: ignore[override] # noqa: A002 - the wire's own name, and a plain error
        return ProtocolError(self.code, self.message, id=id, topic=topic)


class NoKeySet(Exception):
    """What was published is no set of keys that can be used. The message is for the operator."""


class UnknownKey(BadToken):
    """No key of that name is known here; a newer list of keys may have it."""

    def __init__(self) -> None:
        super().__init__(Reason.KEY)
