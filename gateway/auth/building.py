"""From the settings to what checks credentials."""

from collections.abc import Callable, Sequence
from functools import partial

from gateway.auth.authority import Authority
from gateway.auth.claims import ClaimNames
from gateway.auth.fetching import fetch
from gateway.auth.jwks import KeySetWatch
from gateway.auth.keys import KeyRing, SigningKey, secret_key
from gateway.auth.service_file import ServiceKeyFile
from gateway.auth.service_keys import BadServiceKeys, read_service_keys
from gateway.auth.services import RequestMemory, ServiceSignatures
from gateway.auth.tokens import TokenRules, TokenVerifier
from gateway.config import Settings
from gateway.errors import SettingsError
from protocol.principal import Principal

__all__ = ["anonymous", "claim_names", "make_authority", "make_signatures", "token_rules"]


def anonymous(settings: Settings) -> Principal | None:
    """Who a client without credentials is; None: credentials are needed."""
    return None if settings.anonymous == "off" else Principal.anonymous(exact=settings.anonymous == "exact")


def make_authority(
    settings: Settings, *, is_revoked: Callable[[Principal], bool] = lambda _: False
) -> tuple[Authority | None, KeySetWatch | None]:
    """The second is to be run, where there is one. Without a key of any kind there are no tokens."""
    if settings.jwt_secret is None and settings.jwks_url is None:
        return None, None
    secret = None if settings.jwt_secret is None else secret_key(settings.jwt_secret)
    algorithms = settings.jwt_algorithms if settings.jwks_url is not None else ()
    verifier = TokenVerifier(token_rules(settings), KeyRing(secret, algorithms=algorithms))
    watch = None
    if settings.jwks_url is not None:

        def keep(keys: Sequence[SigningKey]) -> None:
            verifier.ring = verifier.ring.with_published(keys)

        watch = KeySetWatch(
            partial(fetch, settings.jwks_url),
            keep,
            algorithms=settings.jwt_algorithms,
            refresh_s=settings.jwks_refresh_s,
        )
    return Authority(verifier, key_set=watch, is_revoked=is_revoked), watch


def make_signatures(
    settings: Settings, memory: RequestMemory, *, is_revoked: Callable[[Principal], bool] = lambda _: False
) -> tuple[ServiceSignatures | None, ServiceKeyFile | None]:
    """The second is to be run, where there is one. Without keys no request is taken that is signed.

    Raises SettingsError when the file with them has become bad since the settings were read.
    """
    if settings.service_keys is not None:  # the variable wins over the file, as with other secrets
        services = read_service_keys(settings.service_keys)
        return ServiceSignatures(services, memory, is_revoked=is_revoked), None
    if settings.service_keys_file is None:
        return None, None
    signatures = ServiceSignatures({}, memory, is_revoked=is_revoked)
    try:
        return signatures, ServiceKeyFile(settings.service_keys_file, signatures.replace)
    except BadServiceKeys as error:
        raise SettingsError(f"GATEWAY_SERVICE_KEYS_FILE: {error}") from None


def token_rules(settings: Settings) -> TokenRules:
    return TokenRules(
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        type=settings.jwt_type,
        leeway_s=settings.jwt_leeway_s,
        claims=claim_names(settings),
    )


def claim_names(settings: Settings) -> ClaimNames:
    return ClaimNames(
        subject=settings.claim_subject,
        vendor=settings.claim_vendor,
        locations=settings.claim_locations,
        permissions=settings.claim_permissions,
    )
