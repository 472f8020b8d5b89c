"""Who may say who somebody is: checks tokens, by keys that are kept current, against what was revoked."""

from collections.abc import Callable, Mapping
from typing import Final

from gateway.auth.errors import BadToken, Reason, UnknownKey
from gateway.auth.jwks import KeySetWatch
from gateway.auth.tokens import TokenVerifier
from protocol.errors import ErrorCode, ProtocolError
from protocol.principal import Principal

__all__ = ["Authority"]

# How long somebody with an unknown key waits for a newer key set, in s.
PATIENCE_S: Final = 3.0
_RETRY_MS: Final = 5000


class Authority:
    """check_nowait() is for the event loop; check() also looks for keys that are not known yet."""

    def __init__(
        self,
        verifier: TokenVerifier,
        *,
        key_set: KeySetWatch | None = None,
        is_revoked: Callable[[Principal], bool] = lambda _: False,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`key_set` None: there is only the shared secret."""
        self._verifier = verifier
        self._key_set = key_set
        self._is_revoked = is_revoked
        self._patience_s = patience_s
        self._accepted = 0
        self._refused: dict[str, int] = {}

    def check_nowait(self, token: str) -> Principal:
        """Raises BadToken; UnknownKey where check() may know more."""
        try:
            principal = self._verifier.verify(token)
            self._refuse_revoked(principal)
        except UnknownKey:
            if self._key_set is not None:
                raise
            raise self._counted(UnknownKey()) from None
        except BadToken as error:
            raise self._counted(error) from None
        self._accepted += 1
        return principal

    async def check(self, token: str) -> Principal:
        """Raises BadToken, or ProtocolError `unavailable` where the provider's keys can not be had."""
        try:
            return self.check_nowait(token)
        except UnknownKey:
            if self._key_set is None:
                raise
        await self._key_set.look_again(self._patience_s)
        try:
            return self.check_nowait(token)
        except UnknownKey as error:
            if not self._key_set.current:
                text = "tokens can not be checked at the moment; try again"
                raise ProtocolError(ErrorCode.UNAVAILABLE, text, retry_after_ms=_RETRY_MS) from None
            raise self._counted(error) from None

    def statistics(self) -> dict[str, float | Mapping[str, float]]:
        """In the names of gateway.metrics."""
        readings: dict[str, float | Mapping[str, float]] = {
            "gateway_tokens_accepted": self._accepted,
            "gateway_tokens_refused": dict(self._refused),
        }
        if self._key_set is not None:
            readings["gateway_key_set_age_seconds"] = self._key_set.age_s()
            readings["gateway_key_set_fetches"] = dict(self._key_set.fetches)
        return readings

    def _refuse_revoked(self, principal: Principal) -> None:
        if self._is_revoked(principal):
            raise BadToken(Reason.REVOKED, "the token has been revoked; get a new one")

    def _counted(self, error: BadToken) -> BadToken:
        self._refused[error.reason] = self._refused.get(error.reason, 0) + 1
        return error
