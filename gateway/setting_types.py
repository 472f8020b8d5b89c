"""The kinds of values a setting can have, each with the words that say what is allowed."""

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

from gateway.addresses import Network
from gateway.auth.algorithms import ASYMMETRIC, MIN_SECRET_BYTES
from gateway.auth.service_file import read_key_file, services_in
from gateway.auth.service_keys import read_service_keys

__all__ = [
    "Address",
    "Algorithms",
    "HttpsUrl",
    "ListenAddress",
    "LogLevel",
    "NetworkList",
    "Origins",
    "PostgresUrl",
    "RedisUrl",
    "Seconds",
    "Secret",
    "ServiceKeys",
    "ServiceKeysFile",
    "limit",
    "number",
    "setting",
    "text",
    "url",
    "whole",
]


class Address(NamedTuple):
    """Where to listen. Port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _parse_address(value: object) -> Address:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\[\]:\s]+)):(\d{1,5})", str(value).strip())
    if match is None or int(match[3]) > 65535:
        raise ValueError("no address")
    return Address(match[1] or match[2], int(match[3]))


def _parse_origins(value: object) -> tuple[str, ...]:
    if isinstance(value, tuple):
        return value
    origins = [part.strip().rstrip("/").lower() for part in str(value).split(",") if part.strip()]
    for origin in origins:
        parts = urlsplit(origin)
        if origin != "*" and (not parts.scheme or not parts.netloc or parts.path or parts.query):
            raise ValueError("no origin")
    return tuple(origins)


def _parse_networks(value: object) -> tuple[Network, ...]:
    if isinstance(value, tuple):
        return value
    # Bits right of the prefix are refused: 10.0.0.5/8 is not what anybody means.
    return tuple(ip_network(part.strip()) for part in str(value).split(",") if part.strip())


def _parse_algorithms(value: object) -> tuple[str, ...]:
    if isinstance(value, tuple):
        return value
    names = tuple(name.strip() for name in str(value).split(",") if name.strip())
    if not names or not set(names) <= set(ASYMMETRIC):
        raise ValueError("no algorithm of a published key")
    return names


def _check_https(value: str) -> str:
    """Keys that anybody on the way could change would be worth nothing; this machine itself has no way."""
    parts = urlsplit(value)
    if parts.scheme == "https" and parts.hostname and parts.username is None:
        return value
    raise ValueError("no https URL")


def _check_secret(value: str) -> str:
    if len(value.encode()) < MIN_SECRET_BYTES:
        raise ValueError("too short")
    return value


def _check_service_keys(value: str) -> str:
    read_service_keys(value)
    return value


def _check_service_keys_file(path: Path) -> Path:
    services_in(read_key_file(path))
    return path


def _check_url(*schemes: str) -> AfterValidator:
    def check(value: str) -> str:
        if urlsplit(value).scheme not in schemes:
            raise ValueError("wrong scheme")
        return value

    return AfterValidator(check)


def _whole_stays_whole(value: float) -> float:
    # 20 is told to clients as 20, not as 20.0.
    return int(value) if value == int(value) else value


def _lower(value: object) -> str:
    return str(value).lower()


Seconds = Annotated[float, Field(allow_inf_nan=False), AfterValidator(_whole_stays_whole)]
ListenAddress = Annotated[Address, NoDecode, BeforeValidator(_parse_address)]
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parse_origins)]
NetworkList = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_parse_networks)]
PostgresUrl = Annotated[str, _check_url("postgres", "postgresql")]
RedisUrl = Annotated[str, _check_url("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")]
HttpsUrl = Annotated[str, AfterValidator(_check_https)]
Secret = Annotated[str, AfterValidator(_check_secret)]
ServiceKeys = Annotated[str, AfterValidator(_check_service_keys)]
ServiceKeysFile = Annotated[Path, AfterValidator(_check_service_keys_file)]
Algorithms = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parse_algorithms)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)]


def setting(
    default: object, description: str, allowed: str, *, unit: str = "", secret: bool = False, **more: Any
) -> Any:
    """A field. `allowed` completes the sentence "... is needed"; a secret is never shown."""
    extra: dict[str, Any] = {"allowed": allowed, "unit": unit, "secret": secret}
    return Field(default=default, description=description, repr=not secret, json_schema_extra=extra, **more)


def number(
    default: float, description: str, unit: str, low: float, high: float, *, kind: str = "number"
) -> Any:
    """A number from `low` to `high`, both allowed."""
    allowed = f"a {kind} from {low:g} to {high:.10g}"
    return setting(default, description, allowed, unit=unit, ge=low, le=high)


def whole(default: int, description: str, unit: str, low: int, high: int) -> Any:
    """A whole number from `low` to `high`, both allowed."""
    return number(default, description, unit, low, high, kind="whole number")


def limit(default: int, description: str, unit: str) -> Any:
    """A whole number where 0 stands for no limit."""
    return setting(
        default,
        f"{description} 0: no limit.",
        "a whole number, 0 for no limit,",
        unit=unit,
        ge=0,
        le=2**31 - 1,
    )


def url(description: str, example: str, *, secret: bool = True) -> Any:
    """A URL; the database's and Redis' are secret because they hold a password."""
    return setting(None, description, f"a URL like {example}", secret=secret)


def text(description: str, *, secret: bool = False) -> Any:
    """Any text that is not empty."""
    return setting(None, description, "some text", secret=secret, min_length=1)
