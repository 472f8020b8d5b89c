"""Settings that belong together; gateway.config.Settings is made of them."""

from typing import Any, Final, Literal

from pydantic import BaseModel

from gateway.auth.algorithms import ASYMMETRIC, MIN_SECRET_BYTES
from gateway.setting_types import (
    Algorithms,
    HttpsUrl,
    Origins,
    Seconds,
    Secret,
    ServiceKeys,
    ServiceKeysFile,
    limit,
    number,
    setting,
    text,
    url,
    whole,
)

__all__ = ["IdentitySettings", "LimitSettings"]

_SERVICE_KEYS: Final = "keys as name:whsec_<base64 of 24 to 64 random bytes>, up to two a name,"


def _claim(default: str, what: str) -> Any:
    """Of a provider that calls it otherwise, or keeps it inside another claim."""
    return setting(
        default,
        f"{what}: the claim of a token that says it, or the way to it, as /realm/roles.",
        "the name of a claim, or a path that begins with /",
        min_length=1,
        max_length=256,
    )


class IdentitySettings(BaseModel):
    """Who clients are, and how they show it."""

    anonymous: Literal["off", "public", "exact"] = setting(
        "public",
        "What a client without credentials may see: nothing, availability, or exact counts.",
        "off, public or exact",
    )
    allowed_origins: Origins = setting(
        (),
        "Web origins that may connect, separated by commas; * for every one. Empty: the gateway's own only.",
        "origins like https://shop.example, separated by commas, or *",
    )
    jwt_secret: Secret | None = setting(
        None,
        "Key of tokens signed with HS256, for development: whoever can check such a token can make one.",
        f"a random text of at least {MIN_SECRET_BYTES} bytes",
        secret=True,
    )
    jwks_url: HttpsUrl | None = url(
        "Where an identity provider publishes the keys of its tokens.",
        "https://id.example/jwks",
        secret=False,
    )
    jwks_refresh_s: Seconds = number(
        300,
        "How often the keys are read again; an unknown one is looked for at once. 0 is not allowed.",
        "s",
        30,
        86_400,
    )
    jwt_algorithms: Algorithms = setting(
        ASYMMETRIC,
        "What published keys may be used with, each by its kind. HS256 is for GATEWAY_JWT_SECRET alone.",
        f"some of {', '.join(ASYMMETRIC)}, separated by commas",
    )
    jwt_type: str | None = text(
        "The `typ` every token must carry, at+jwt for access tokens (RFC 9068). Empty: not checked."
    )
    jwt_issuer: str | None = text("The `iss` every token must carry. Empty: not checked.")
    jwt_audience: str | None = text("The `aud` every token must carry. Empty: not checked.")
    jwt_leeway_s: Seconds = number(5, "Tolerance for the clocks of token issuers. 0: none.", "s", 0, 60)
    claim_subject: str = _claim("sub", "Who it is")
    claim_vendor: str = _claim("vendor_id", 'The vendor, or "*"')
    claim_locations: str = _claim("locations", 'The locations, or "*"')
    claim_permissions: str = _claim("permissions", "The permissions, a list or one text with spaces")
    token: str | None = text("What `tail` presents to a gateway that needs credentials.", secret=True)
    service_keys: ServiceKeys | None = setting(
        None,
        "Keys of internal services that sign their requests, and what each may, separated by commas "
        "(docs/service-requests.md).",
        f"{_SERVICE_KEYS} and what they may, separated by commas,",
        secret=True,
    )
    service_keys_file: ServiceKeysFile | None = setting(
        None,
        "The file that says what GATEWAY_SERVICE_KEYS would. It is read again when it changes.",
        f"a file of {_SERVICE_KEYS} and what they may, one a line,",
    )
    auth_timeout_s: Seconds = number(
        5,
        "A connection that needs credentials is closed (4408) after this. 0 is not allowed.",
        "s",
        0.05,
        300,
    )


class LimitSettings(BaseModel):
    """How much of everything one client may have, and all of them together."""

    max_topic_items: int = whole(
        200_000,
        "A topic with more items is refused (topic_too_large). 0 is not allowed.",
        "items",
        1,
        10_000_000,
    )
    max_connections: int = limit(0, "Client connections of one process.", "connections")
    max_unauthenticated: int = limit(
        1000,
        "Connections of one process that need credentials and have sent none yet; more are closed (4429).",
        "connections",
    )
    max_connections_per_address: int = limit(
        5000,
        "Client connections from one address (IPv6: one /64), of one process, HTTP included.",
        "connections",
    )
    handshakes_per_address_per_s: int = limit(
        200,
        "New connections from one address (IPv6: one /64), on average; bursts of ten times as many, and of a"
        " hundred times as many of all processes together.",
        "per s",
    )
    messages_per_s: int = limit(
        1000,
        "Messages from one client, and topics it subscribes to, on average; bursts of ten times as many.",
        "per s",
    )
    snapshot_rows_per_s: int = limit(
        1_000_000,
        "Snapshot rows for one principal (an address, where there is no token), of all processes together and"
        " on average; bursts of ten times as many.",
        "per s",
    )
    http_requests_per_s: int = limit(
        2000, "Requests of one principal to /v1, as above; bursts of ten times as many.", "per s"
    )
    auth_per_s: int = limit(
        500,
        "`auth` messages of one principal, and bad tokens over HTTP from one address, as above; bursts of ten"
        " times as many.",
        "per s",
    )
    tickets_per_s: int = limit(
        200, "Tickets for one principal, as above; bursts of ten times as many.", "per s"
    )
    max_loads_per_principal: int = limit(
        5000,
        "Topics that one principal makes this process load or open at the same time.",
        "topics",
    )
    pending_bytes: int = whole(
        65_536,
        "What waits in a connection's buffer, beyond one message, before only the latest of each item is kept"
        " and nothing more is read. 0 is not allowed.",
        "bytes",
        4096,
        16_777_216,
    )
    max_topics: int = limit(500, "Topics held by one connection.", "topics")
    max_message_bytes: int = limit(16_384, "A message from a client.", "bytes")
