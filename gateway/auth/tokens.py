"""Whether a token is good, and whose it is (RFC 7519, RFC 8725). No I/O."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from joserfc import jws
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jws import JWSRegistry

from gateway.auth.claims import USUAL_NAMES, ClaimNames, make_principal, moment
from gateway.auth.compact import MAX_TOKEN_BYTES, CompactToken, read_compact, read_object
from gateway.auth.errors import BadToken, Reason, UnknownKey
from gateway.auth.keys import KeyRing, SigningKey
from protocol.principal import Principal

__all__ = ["TokenRules", "TokenVerifier"]

# A token that names no key is tried with so many: each costs a signature.
_MAX_CANDIDATES: Final = 8


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token must say besides being signed. None: not asked for."""

    issuer: str | None = None
    audience: str | None = None
    type: str | None = None
    leeway_s: float = 5.0
    claims: ClaimNames = USUAL_NAMES


class TokenVerifier:
    """Stateless but for the ring of keys, which whoever refreshes them replaces as a whole."""

    def __init__(self, rules: TokenRules, ring: KeyRing, *, clock: Callable[[], float] = time.time) -> None:
        """`clock`: seconds since 1970."""
        self._rules = rules
        self._clock = clock
        self.ring = ring

    def verify(self, text: str) -> Principal:
        """Raises BadToken; UnknownKey where a newer set of keys may help. It takes one signature's time."""
        token = read_compact(text)
        candidates = self.ring.candidates(token.algorithm, token.key_id)
        if candidates is None:
            raise UnknownKey
        if not candidates:
            raise BadToken(Reason.ALGORITHM)
        if not any(_is_signed_by(token, key) for key in candidates[:_MAX_CANDIDATES]):
            raise BadToken(Reason.SIGNATURE)
        claims = read_object(token.payload)
        self._check_type(token.type)
        self._check_times(claims)
        self._check_parties(claims)
        return make_principal(claims, self._rules.claims)

    def _check_type(self, named: str | None) -> None:
        """RFC 8725 3.11: so that a token made for something else, an ID token say, is none here."""
        wanted = self._rules.type
        if wanted is not None and (named is None or _media_type(named) != _media_type(wanted)):
            raise BadToken(Reason.TYPE, "this is another type of token; present an access token")

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        now, leeway_s = self._clock(), self._rules.leeway_s
        expires_at, not_before = moment(claims, "exp"), moment(claims, "nbf")
        if expires_at is None:
            raise BadToken(Reason.CLAIMS, "a token has to end: the claim `exp` is needed")
        if now >= expires_at + leeway_s:
            raise BadToken(Reason.EXPIRED, "the token has expired; get a new one")
        if not_before is not None and now < not_before - leeway_s:
            raise BadToken(Reason.NOT_YET, "the token is not valid yet; are the clocks right?")

    def _check_parties(self, claims: Mapping[str, Any]) -> None:
        rules = self._rules
        if rules.issuer is not None and claims.get("iss") != rules.issuer:
            raise BadToken(Reason.ISSUER, "the token is from another issuer than this gateway trusts")
        if rules.audience is not None:
            audience = claims.get("aud")
            named = audience if isinstance(audience, list) else [audience]
            if rules.audience not in named:
                raise BadToken(Reason.AUDIENCE, "the token is for another audience than this gateway")


class _Registry(JWSRegistry):
    """Without the library's limits: the length of a token has been checked by then. Header members that it
    does not know are no error, and those that carry keys (`jwk`, `jku`, `x5c`, `x5u`) are not looked at."""

    max_header_length = MAX_TOKEN_BYTES
    max_payload_length = MAX_TOKEN_BYTES

    def check_header(self, header: Mapping[str, Any]) -> None:
        """compact.read_compact has refused `crit`, and read what is used."""

    def get_alg(self, name: str) -> Any:
        """Without the library's advice on names: `EdDSA` is what providers write."""
        if name not in (self.allowed or ()):
            raise UnsupportedAlgorithmError(name)
        return self.algorithms[name]


def _is_signed_by(token: CompactToken, key: SigningKey) -> bool:
    """With the one algorithm that both the key and the token name."""
    try:
        jws.deserialize_compact(token.text, key.key, registry=_Registry(algorithms=[token.algorithm]))
    except (JoseError, ValueError, TypeError):
        return False
    return True


def _media_type(name: str) -> str:
    """RFC 7515 4.1.9: `application/` may be left out; media types know no case."""
    return name.lower().removeprefix("application/")
