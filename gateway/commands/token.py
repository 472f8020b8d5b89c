import argparse
import re
from typing import Final

from gateway.auth.building import claim_names
from gateway.auth.claims import MAX_SUBJECT
from gateway.auth.minting import mint_token
from gateway.config import load_settings
from gateway.errors import SettingsError
from protocol.principal import EVERY, Permission
from protocol.topics import is_key

__all__ = ["configure", "run", "seconds_of"]

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST_S: Final = 366 * 86_400


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--subject", metavar="S", required=True, help="who it is, as `welcome` says it")
    add("--vendor", metavar="V", help="of whose stock exact numbers may be seen; * for every vendor")
    add("--location", metavar="L", nargs="+", action="extend", default=[], help="* for every location")
    names = ", ".join(Permission)
    add("--permission", metavar="P", nargs="+", action="extend", default=[], help=names)
    add("--ttl", metavar="1h", default="1h", help="how long it is good: a number and s, m, h or d (1h)")


def run(options: argparse.Namespace) -> int:
    settings = load_settings()
    if settings.jwt_secret is None:
        raise SettingsError(
            "GATEWAY_JWT_SECRET is not set: tokens are minted with it, and the gateway must have the same one"
        )
    _check(options)
    token = mint_token(
        settings.jwt_secret,
        subject=options.subject,
        vendor=options.vendor,
        locations=options.location,
        permissions=options.permission,
        ttl_s=seconds_of(options.ttl, option="--ttl"),
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        token_type=settings.jwt_type,
        names=claim_names(settings),
    )
    print(token)
    return 0


def _check(options: argparse.Namespace) -> None:
    """What the gateway would refuse is not minted."""
    subject, vendor = options.subject, options.vendor
    if not 0 < len(subject) <= MAX_SUBJECT or not subject.isprintable():
        raise SettingsError(f"--subject={subject[:80]!r}: a text of up to {MAX_SUBJECT} characters is needed")
    if vendor is not None and vendor != EVERY and not is_key(vendor):
        raise SettingsError(f"--vendor={vendor[:80]!r}: the id of a vendor or * is needed")
    for location in options.location:
        if location != EVERY and not is_key(location):
            raise SettingsError(f"--location={location[:80]!r}: the id of a location or * is needed")
    for permission in options.permission:
        if permission not in list(Permission):
            raise SettingsError(f"--permission={permission[:80]!r}: one of {', '.join(Permission)} is needed")


def seconds_of(text: str, *, option: str) -> int:
    """Raises SettingsError."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    seconds = int(match[1]) * _UNITS_S[match[2]] if match is not None else 0
    if not 0 < seconds <= _LONGEST_S:
        raise SettingsError(f"{option}={text[:80]!r}: a time like 30s, 15m, 1h or 7d, up to 366d, is needed")
    return seconds
