"""Keys that tokens may be signed with. Which algorithms a key is for is said here, never by a token."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

from gateway.auth.algorithms import MIN_SECRET_BYTES
from gateway.auth.compact import read_object
from gateway.auth.errors import BadToken, NoKeySet

__all__ = ["KeyRing", "SigningKey", "read_key_set", "secret_key"]

MIN_RSA_BITS: Final = 2048  # RFC 7518 3.3
# What it costs to check a signature grows with both. OpenSSL has the first limit as well, and the second only
# above 3072 bits: below, an exponent as long as the key makes it 100 times as much.
MAX_RSA_BITS: Final = 16_384
MAX_RSA_EXPONENT_BITS: Final = 64
MAX_KEYS: Final = 64
_OF_CURVE: Final = {"P-256": ("ES256",), "P-384": ("ES384",), "Ed25519": ("EdDSA", "Ed25519")}
_OF_RSA: Final = ("RS256", "PS256")


class SigningKey(NamedTuple):
    """A key, and the only algorithms it is used with (RFC 8725 3.1)."""

    id: str | None
    algorithms: frozenset[str]
    key: Key


class KeyRing:
    """The keys at one time: `secret` is the one that the settings name, `published` those of a key set, which
    are asked for by name."""

    def __init__(
        self,
        secret: SigningKey | None = None,
        published: Sequence[SigningKey] = (),
        *,
        algorithms: Collection[str] = (),
    ) -> None:
        """`algorithms`: what a published key may be used with; with none of them there is no key set."""
        self.secret = secret
        self.published = published
        self._algorithms = frozenset(algorithms)

    def with_published(self, published: Sequence[SigningKey]) -> "KeyRing":
        return KeyRing(self.secret, published, algorithms=self._algorithms)

    def candidates(self, algorithm: str, key_id: str | None) -> list[SigningKey] | None:
        """Those that may have signed. None: a published key is named that is not known here.

        A token without a key's name may be signed by any, as RFC 7517 4.5 leaves the name to choice.
        """
        if self.secret is not None and algorithm in self.secret.algorithms:
            return [self.secret]
        if algorithm not in self._algorithms:
            return []
        named = [key for key in self.published if key_id is None or key.id == key_id]
        if not named:
            return None
        return [key for key in named if algorithm in key.algorithms]


def secret_key(secret: str) -> SigningKey:
    """Raises ValueError for a secret below MIN_SECRET_BYTES."""
    data = secret.encode()
    if len(data) < MIN_SECRET_BYTES:
        raise ValueError(f"at least {MIN_SECRET_BYTES} bytes are needed")
    # As a JWK and not as bytes: the library guesses what bytes that look like PEM might be.
    return SigningKey(None, frozenset({"HS256"}), OctKey.import_key({"kty": "oct", "k": _base64url(data)}))


def read_key_set(data: bytes, algorithms: Collection[str]) -> list[SigningKey]:
    """The keys of a JWK set (RFC 7517 section 5) that can verify one of `algorithms`, at most MAX_KEYS.

    Others are passed over: of unknown kinds, for encryption, too short; also symmetric and private ones, as
    what was published is no secret. Raises NoKeySet when none is left.
    """
    try:
        published = read_object(data).get("keys")
    except BadToken:
        raise NoKeySet("no JSON object: a JWK set is needed (RFC 7517)") from None
    if not isinstance(published, list):
        raise NoKeySet("no `keys`: a JWK set is needed (RFC 7517)")
    keys = list(_usable(published[:MAX_KEYS], frozenset(algorithms)))
    if not keys:
        raise NoKeySet("none of its keys can be used; see GATEWAY_JWT_ALGORITHMS")
    return keys


def _usable(published: Sequence[Any], algorithms: frozenset[str]) -> Iterator[SigningKey]:
    for jwk in published:
        if not isinstance(jwk, dict) or not _is_for_signatures(jwk):
            continue
        fitting = _algorithms(jwk) & algorithms
        if not fitting or _is_unfit(jwk):
            continue
        try:
            key = _import(jwk)
        except (JoseError, ValueError, TypeError):
            continue
        yield SigningKey(jwk.get("kid"), fitting, key)


def _is_for_signatures(jwk: Mapping[str, Any]) -> bool:
    operations = jwk.get("key_ops", ["verify"])
    return (
        jwk.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
        and "d" not in jwk
        and isinstance(jwk.get("kid", ""), str)
    )


def _algorithms(jwk: Mapping[str, Any]) -> frozenset[str]:
    """What the kind of key allows, and of it what the key itself names: `alg` never adds to it."""
    kind, curve = jwk.get("kty"), jwk.get("crv")
    possible: Sequence[str] = ()
    if kind == "RSA":
        possible = _OF_RSA
    elif kind in ("EC", "OKP") and isinstance(curve, str):
        possible = _OF_CURVE.get(curve, ())
    named = jwk.get("alg")
    return frozenset(possible) if named is None else frozenset(a for a in possible if a == named)


def _is_unfit(jwk: Mapping[str, Any]) -> bool:
    """An RSA key that is too short, or so long that it takes its time; the library warns of the former."""
    if jwk["kty"] != "RSA":
        return False
    long_enough = MIN_RSA_BITS <= _bits(jwk.get("n")) <= MAX_RSA_BITS
    return not long_enough or _bits(jwk.get("e")) > MAX_RSA_EXPONENT_BITS


def _bits(number: Any) -> int:
    """Of a base64url number (RFC 7518 section 2); 0 for anything else."""
    try:
        return int.from_bytes(urlsafe_b64decode(number + "=="), "big").bit_length()
    except (TypeError, ValueError):
        return 0


def _import(jwk: dict[str, Any]) -> RSAKey | ECKey | OKPKey:
    """Only what makes the key: what else a publisher writes beside it is not our library's to judge."""
    names = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}[jwk["kty"]]
    bare = {name: jwk[name] for name in ("kty", *names) if name in jwk}
    kinds: dict[str, type[RSAKey] | type[ECKey] | type[OKPKey]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
    return kinds[jwk["kty"]].import_key(bare)


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
