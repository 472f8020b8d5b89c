from typing import Final

__all__ = ["ASYMMETRIC", "MIN_SECRET_BYTES"]

# Of keys that a provider publishes: never a symmetric one, for what is published is no secret. Ed25519 is the
# name that RFC 9864 gives EdDSA on that curve; providers write either.
ASYMMETRIC: Final = ("RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519")
# RFC 7518 3.2: a key of HS256 is at least as long as its hash.
MIN_SECRET_BYTES: Final = 32
