"""What errors of TLS mean for who connects to Postgres or Redis."""

import ssl
from typing import Final

__all__ = ["tls_refusal"]

# OpenSSL's names for files that hold something else, or do not belong together.
_FILES: Final = {
    "BAD_DECRYPT",
    "KEY_VALUES_MISMATCH",
    "NO_CERTIFICATE_OR_CRL_FOUND",
    "NO_START_LINE",
    "PEM_LIB",
}


def tls_refusal(error: BaseException | None) -> str | None:
    """Why it is no use trying again, looked for along the chain of errors; None: it may be.

    A server whose certificate is not trusted has answered: it is another one, or its certificate or the
    settings have to be mended.
    """
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {error.verify_message.rstrip('.')}"
        if isinstance(error, ssl.SSLError) and error.reason in _FILES:
            return f"a certificate or key file that the URL names can not be used ({error.reason})"
        if isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error):
            return "it does not speak TLS, which the URL asks for (sslmode)"
        error = error.__cause__ or error.__context__
    return None
