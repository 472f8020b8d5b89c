"""What can be told of the URLs of Postgres and Redis before anybody is asked."""

from collections.abc import Collection
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from gateway.errors import SettingsError

__all__ = ["check_files", "is_local", "parameters"]

_REDIS_FILES: Final = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
_REDIS_TLS: Final = _REDIS_FILES | {
    "ssl_ca_path",
    "ssl_cert_reqs",
    "ssl_check_hostname",
    "ssl_ciphers",
    "ssl_password",
}
_POSTGRES_FILES: Final = frozenset({"sslrootcert", "sslcert", "sslkey", "sslcrl"})


def parameters(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


def is_local(url: str) -> bool:
    """Whether the way to the server does not leave this machine, as far as the URL tells."""
    parts = urlsplit(url)
    host = parts.hostname or parameters(url).get("host", "")
    return parts.scheme == "unix" or host in ("", "localhost", "::1") or host.startswith(("127.", "/"))


def check_files(setting: str, url: str) -> None:
    """Raises SettingsError for a parameter of TLS that is none, and for a file that can not be read."""
    given = parameters(url)
    scheme = urlsplit(url).scheme
    if scheme.startswith("postgres"):
        _check_readable(setting, given, _POSTGRES_FILES)
        return
    tls = {name: value for name, value in given.items() if name.startswith("ssl")}
    for name in tls:
        if name not in _REDIS_TLS:
            known = ", ".join(sorted(_REDIS_TLS))
            raise SettingsError(f"{setting}: there is no parameter {name!r}; of TLS there are {known}")
        if not scheme.startswith("rediss"):
            raise SettingsError(f"{setting}: {name} has no effect without TLS: write rediss://")
    _check_readable(setting, tls, _REDIS_FILES)


def _check_readable(setting: str, given: dict[str, str], names: Collection[str]) -> None:
    for name, file in given.items():
        if name not in names or not file:
            continue
        try:
            with open(file, "rb"):  # noqa: PTH123 - nothing of it is wanted
                pass
        except OSError as error:
            found = f"{setting}: {name}={file!r}: a readable file is needed ({error.strerror})"
            raise SettingsError(found) from error
