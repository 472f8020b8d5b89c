"""What `doctor` says about tokens and the keys of services."""

from collections.abc import Awaitable, Callable, Mapping

from gateway.auth.errors import NoKeySet
from gateway.auth.fetching import FetchFailed, fetch
from gateway.auth.keys import read_key_set
from gateway.auth.service_file import read_key_file, services_in
from gateway.auth.service_keys import BadServiceKeys, Service, read_service_keys
from gateway.config import Settings
from listeners.findings import Finding, fail, fine, warn

__all__ = ["examine_credentials"]


async def examine_credentials(
    settings: Settings, *, fetch: Callable[[str], Awaitable[bytes]] = fetch
) -> list[Finding]:
    """Of nothing that is not there it says anything, unless nobody could come in."""
    findings = _examine_services(settings)
    if settings.jwt_secret is None and settings.jwks_url is None:
        if settings.anonymous == "off" and not findings:
            advice = "set GATEWAY_JWKS_URL or GATEWAY_JWT_SECRET, or let GATEWAY_ANONYMOUS be public"
            findings.append(fail("credentials", "needed, and no key to check any with", advice))
        return findings
    if settings.jwt_secret is not None:
        advice = "give each service keys of its own by a provider: GATEWAY_JWKS_URL"
        found = "a shared secret: whoever can check tokens can make them"
        findings.append(warn("GATEWAY_JWT_SECRET", found, advice))
    if settings.jwks_url is not None:
        findings.append(await _examine_key_set(settings, settings.jwks_url, fetch))
        if settings.jwt_issuer is None or settings.jwt_audience is None:
            found = "any issuer's or audience's tokens that these keys have signed are taken"
            findings.append(warn("tokens", found, "set GATEWAY_JWT_ISSUER and GATEWAY_JWT_AUDIENCE"))
    if settings.anonymous == "exact":
        advice = "fine on one's own machine; else public or off"
        findings.append(warn("GATEWAY_ANONYMOUS", "exact: tokens limit nobody who leaves them out", advice))
    return findings


async def _examine_key_set(settings: Settings, url: str, fetch: Callable[[str], Awaitable[bytes]]) -> Finding:
    try:
        keys = read_key_set(await fetch(url), settings.jwt_algorithms)
    except (FetchFailed, NoKeySet) as error:
        return fail("GATEWAY_JWKS_URL", str(error), "no token can be checked before this is mended")
    return fine("GATEWAY_JWKS_URL", f"{len(keys)} keys for tokens")


def _examine_services(settings: Settings) -> list[Finding]:
    setting = "GATEWAY_SERVICE_KEYS"
    try:
        if settings.service_keys is not None:
            services = read_service_keys(settings.service_keys)
        elif settings.service_keys_file is not None:
            setting += "_FILE"
            services = services_in(read_key_file(settings.service_keys_file))
        else:
            return []
    except BadServiceKeys as error:
        return [fail(setting, str(error), "a gateway that runs goes on with its old keys; mend the file")]
    keys = sum(len(service.keys) for service in services.values())
    findings = [fine(setting, f"{_count(len(services), 'service')} with {_count(keys, 'key')}")]
    if idle := _named(services, lambda service: not service.permissions):
        found, advice = f"may do nothing: {idle}", "say what they may: name:permission=inv:..."
        findings.append(warn("services", found, advice))
    if rotating := _named(services, lambda service: len(service.keys) > 1):
        found, advice = f"two keys live: {rotating}", "take the old one away when nobody signs with it"
        findings.append(warn("services", found, advice))
    return findings


def _named(services: Mapping[str, Service], which: Callable[[Service], bool]) -> str:
    return ", ".join(name for name, service in services.items() if which(service))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
