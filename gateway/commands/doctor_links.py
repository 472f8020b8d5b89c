"""What `doctor` says about the ways to Postgres and Redis: who could listen, and who could answer instead."""

from urllib.parse import urlsplit

from gateway.config import Settings
from gateway.server_urls import is_local, parameters
from listeners.findings import Finding, warn

__all__ = ["examine_links"]


def examine_links(settings: Settings) -> list[Finding]:
    """Of a server on this machine, or of one that is reached safely, there is nothing to say."""
    findings = []
    for setting, url in (
        ("GATEWAY_DATABASE_URL", settings.database_url),
        ("GATEWAY_LISTENER_DATABASE_URL", settings.listener_database_url),
    ):
        if url is not None and not is_local(url):
            findings += _postgres(setting, parameters(url).get("sslmode", "prefer"))
    if settings.redis_url is not None and not is_local(settings.redis_url):
        findings += _redis(settings.redis_url)
    return findings


def _postgres(setting: str, mode: str) -> list[Finding]:
    if mode == "verify-full":
        return []
    found = {
        "verify-ca": "whoever has any certificate of that authority may answer",
        "require": "anybody may answer: no certificate is checked without sslrootcert",
    }.get(mode, "what goes over it may not be encrypted")
    advice = f"end {setting} in ?sslmode=verify-full&sslrootcert=FILE"
    return [warn(setting, f"sslmode={mode}: {found}", advice)]


def _redis(url: str) -> list[Finding]:
    given = parameters(url)
    if not urlsplit(url).scheme.startswith("rediss"):
        found, advice = "what goes over it, the password too, is not encrypted", "write rediss://"
    elif given.get("ssl_cert_reqs", "required") != "required":
        found, advice = "anybody may answer: no certificate is checked", "leave ssl_cert_reqs away"
    elif given.get("ssl_check_hostname", "true").lower() in ("0", "f", "false", "n", "no"):
        found = "whoever has any certificate of that authority may answer"
        advice = "leave ssl_check_hostname away"
    else:
        return []
    return [warn("GATEWAY_REDIS_URL", found, advice)]
