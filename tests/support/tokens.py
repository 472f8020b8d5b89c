"""Tokens of every kind, also of those that no honest library makes."""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

import orjson
from joserfc import jws
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

__all__ = ["SECRET", "ProviderKey", "base64url", "claims", "compact", "hs256", "signed"]

SECRET = "0123456789abcdef0123456789abcdef"  # 32 bytes, the least that is allowed
NOW = 1_800_000_000.0


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims(**more: Any) -> dict[str, Any]:
    """Good ones; None takes one away."""
    usual: dict[str, Any] = {
        "sub": "till-1",
        "exp": NOW + 600,
        "iat": NOW - 10,
        "vendor_id": "V",
        "locations": ["L1"],
        "permissions": ["inv:read:exact", "inv:read:public"],
    }
    return {name: value for name, value in (usual | more).items() if value is not None}


def compact(header: bytes | Mapping[str, Any], payload: bytes | Mapping[str, Any], signature: bytes) -> str:
    """Any three parts, whatever they are."""
    parts = [part if isinstance(part, bytes) else orjson.dumps(part) for part in (header, payload)]
    return ".".join(base64url(part) for part in (*parts, signature))


def hs256(
    payload: bytes | Mapping[str, Any],
    *,
    secret: bytes = SECRET.encode(),
    header: bytes | Mapping[str, Any] | None = None,
) -> str:
    """Signed by hand, so that the header and the claims may be any bytes."""
    unsigned = compact(header or {"alg": "HS256", "typ": "JWT"}, payload, b"").rstrip(".")
    return f"{unsigned}.{base64url(hmac.digest(secret, unsigned.encode(), hashlib.sha256))}"


class ProviderKey:
    """A key pair of an identity provider."""

    def __init__(self, kid: str | None, algorithm: str = "RS256", *, bits: int = 2048) -> None:
        self.kid = kid
        self.algorithm = algorithm
        self.key: Key
        if algorithm in ("RS256", "PS256"):
            self.key = RSAKey.generate_key(bits)
        elif algorithm.startswith("ES"):
            self.key = ECKey.generate_key({"ES256": "P-256", "ES384": "P-384"}[algorithm])
        else:
            self.key = OKPKey.generate_key("Ed25519")

    def public(self, **more: Any) -> dict[str, Any]:
        """As it is published; None takes a member away."""
        jwk = {"kid": self.kid, "use": "sig", "alg": self.algorithm, **self.key.as_dict(private=False)} | more
        return {name: value for name, value in jwk.items() if value is not None}

    def sign(self, payload: Mapping[str, Any], **header: Any) -> str:
        """None takes a member of the header away."""
        usual = {"alg": self.algorithm, "kid": self.kid, "typ": "JWT"} | header
        return signed({n: v for n, v in usual.items() if v is not None}, payload, self.key)


def signed(header: Mapping[str, Any], payload: Mapping[str, Any], key: Key) -> str:
    registry = jws.JWSRegistry(algorithms=[header["alg"]], strict_check_header=False)
    alg = registry.algorithms[header["alg"]]
    unsigned = compact(header, payload, b"").rstrip(".")
    return f"{unsigned}.{base64url(alg.sign(unsigned.encode(), key))}"
