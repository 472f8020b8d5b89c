from pydantic import BaseModel

from gateway.setting_types import text

__all__ = ["TlsSettings"]


class TlsSettings(BaseModel):
    """The gateway's own TLS, for those without a proxy before it; the port of the operator stays plain."""

    tls_certificate: str | None = text(
        "File of the certificate that clients are shown, PEM, those of its issuers behind it; read again on "
        "SIGHUP. Empty: clients connect without TLS, or a proxy ends it."
    )
    tls_key: str | None = text(
        "File of the certificate's private key, PEM. Empty: it is in the certificate's file."
    )
    tls_key_password: str | None = text("Of a private key that is encrypted.", secret=True)
