"""Signed requests, made by hand: what the gateway checks is not made with what checks it."""

import base64
import hashlib
import hmac
import secrets
import time

__all__ = ["KEYS", "headers_of", "message_id", "new_key", "webhook_signature"]


def new_key(size: int = 32) -> str:
    return f"whsec_{base64.b64encode(secrets.token_bytes(size)).decode()}"


# The same ones in every process: names of tests are made of them.
KEYS = {
    name: f"whsec_{base64.b64encode(hashlib.sha256(name.encode()).digest()).decode()}"
    for name in ("old", "new", "other")
}


def message_id() -> str:
    return f"msg_{secrets.token_hex(12)}"


def webhook_signature(key: str, identity: str, timestamp: int | str, body: bytes) -> str:
    secret = base64.b64decode(key.removeprefix("whsec_"))
    signed = f"{identity}.{timestamp}.".encode("latin-1") + body
    return f"v1,{base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()}"


def headers_of(
    body: bytes, *keys: str, identity: str | None = None, timestamp: int | str | None = None
) -> dict[str, str]:
    """Of a request signed with all of the keys."""
    identity = message_id() if identity is None else identity
    timestamp = int(time.time()) if timestamp is None else timestamp
    return {
        "webhook-id": identity,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(webhook_signature(key, identity, timestamp, body) for key in keys),
    }
