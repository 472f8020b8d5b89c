"""The certificate that clients are shown, and how it is exchanged while they are connected."""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.config import Settings
from gateway.errors import SettingsError

__all__ = ["Certificate", "ServerCertificate", "load_certificate", "read_certificate"]

log = structlog.get_logger(__name__)

CERTIFICATE: Final = "GATEWAY_TLS_CERTIFICATE"
KEY: Final = "GATEWAY_TLS_KEY"
PASSWORD: Final = "GATEWAY_TLS_KEY_PASSWORD"  # noqa: S105 - its name

# For TLS 1.2: forward secrecy and authenticated encryption alone (RFC 9325 4.2); TLS 1.3 knows nothing else.
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"


class Certificate(NamedTuple):
    """What the files hold. `names`: the hosts it is for."""

    context: ssl.SSLContext
    not_before: datetime
    not_after: datetime
    names: tuple[str, ...]

    def seconds_left(self, now: datetime) -> float:
        """Below 0 it has expired."""
        return (self.not_after - now).total_seconds()


def read_certificate(settings: Settings) -> Certificate | None:
    """None: there is to be no TLS. Raises SettingsError, of one line that names the setting to mend."""
    if settings.tls_certificate is None:
        for name, value in ((KEY, settings.tls_key), (PASSWORD, settings.tls_key_password)):
            if value is not None:
                raise SettingsError(f"{name} is set and {CERTIFICATE} is not: set both or none")
        return None
    leaf = _read_leaf(settings.tls_certificate)
    key_name, key_file = KEY, settings.tls_key
    if key_file is None:
        key_name, key_file = CERTIFICATE, settings.tls_certificate
    where = f"{key_name}={key_file!r}"
    _check_key(where, _read(key_name, key_file), settings.tls_key_password, leaf)
    context = _bare_context()
    try:
        # The password as a function: without any, OpenSSL would ask for it at the terminal.
        context.load_cert_chain(
            settings.tls_certificate, key_file, password=lambda: settings.tls_key_password or ""
        )
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"{where}: can not be used ({_reason(error)})") from error
    return Certificate(context, leaf.not_valid_before_utc, leaf.not_valid_after_utc, _names(leaf))


def _bare_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    return context


def _read(setting: str, file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise SettingsError(f"{setting}={file!r}: a readable file is needed ({error.strerror})") from error


def _read_leaf(file: str) -> x509.Certificate:
    """The first certificate of the file is the one that is shown."""
    try:
        return x509.load_pem_x509_certificates(_read(CERTIFICATE, file))[0]
    except ValueError as error:
        raise SettingsError(f"{CERTIFICATE}={file!r}: holds no certificate in PEM form") from error


def _check_key(where: str, pem: bytes, password: str | None, leaf: x509.Certificate) -> None:
    try:
        key = _load_key(pem, password)
    except TypeError as error:
        raise SettingsError(f"{where}: is encrypted, so {PASSWORD} is needed") from error
    except ValueError as error:
        found = "holds no private key in PEM form"
        if password is not None:
            found += f", or {PASSWORD} is not its password"
        raise SettingsError(f"{where}: {found}") from error
    if _public(key.public_key()) != _public(leaf.public_key()):
        raise SettingsError(f"{where}: is the key of another certificate")


def _load_key(pem: bytes, password: str | None) -> Any:
    """Raises TypeError without a password that is needed; one that is not needed does no harm."""
    if password is not None:
        with suppress(TypeError):
            return serialization.load_pem_private_key(pem, password.encode())
    return serialization.load_pem_private_key(pem, None)


def _public(key: Any) -> bytes:
    public: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return public


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = (str(address) for address in names.get_values_for_type(x509.IPAddress))
    return (*names.get_values_for_type(x509.DNSName), *addresses)


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or type(error).__name__


class ServerCertificate:
    """A certificate in use. `context` is what the listening socket is given, once and for all: what a new
    handshake is shown is decided when it begins, so connections that are open notice nothing of a reload."""

    def __init__(
        self,
        read: Callable[[], Certificate],
        *,
        reload: asyncio.Event | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`read` raises SettingsError. Setting `reload` makes run() read the files again."""
        self._read = read
        self._reload = reload or asyncio.Event()
        self._clock = clock
        self._reloads = {"success": 0, "failure": 0}
        self._current = read()
        self._warn()
        self.context = self._current.context
        # Called for every handshake, also for one whose client names no host.
        self.context.sni_callback = self._present

    def _present(self, connection: Any, _: str | None, __: ssl.SSLContext) -> None:
        connection.context = self._current.context

    def reload(self) -> bool:
        """Reads the files again. Whatever is wrong with them, the old certificate stays; the log says why."""
        try:
            fresh = self._read()
        except SettingsError as error:
            self._reloads["failure"] += 1
            log.error("certificate not reloaded: the old one stays", reason=str(error))  # noqa: TRY400  # one line
            return False
        self._current = fresh
        self._reloads["success"] += 1
        log.info("certificate reloaded", expires=fresh.not_after.isoformat(), names=", ".join(fresh.names))
        self._warn()
        return True

    async def run(self) -> None:
        """Reloads whenever it is asked to; until cancelled."""
        while True:
            await self._reload.wait()
            self._reload.clear()
            self.reload()

    def statistics(self) -> dict[str, float | Mapping[str, float]]:
        """In the names of gateway.metrics."""
        return {
            "gateway_certificate_seconds_left": self._current.seconds_left(self._clock()),
            "gateway_certificate_reloads": dict(self._reloads),
        }

    def _warn(self) -> None:
        now = self._clock()
        if not self._current.not_before <= now <= self._current.not_after:
            log.warning(
                "clients will not trust the certificate: it is not valid now",
                not_before=self._current.not_before.isoformat(),
                not_after=self._current.not_after.isoformat(),
            )


def load_certificate(settings: Settings, reload: asyncio.Event) -> ServerCertificate | None:
    """What `serve` shows its clients; None without TLS. Raises SettingsError."""
    if settings.tls_certificate is None:
        return None

    def read() -> Certificate:
        certificate = read_certificate(settings)
        if certificate is None:
            raise AssertionError("a certificate that was set stays set")
        return certificate

    return ServerCertificate(read, reload=reload)
