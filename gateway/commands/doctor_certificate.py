"""What `doctor` says about the certificate that clients are shown."""

import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gateway.certificate import read_certificate
from gateway.config import Settings
from gateway.errors import SettingsError
from listeners.findings import Finding, fail, fine, warn

__all__ = ["examine_certificate"]

SUBJECT: Final = "GATEWAY_TLS_CERTIFICATE"
# Whoever renews by themselves (ACME) has done it by then.
SOON_S: Final = 14 * 86_400.0


def examine_certificate(settings: Settings, *, now: datetime | None = None) -> list[Finding]:
    """Nothing where there is to be no TLS."""
    now = now or datetime.now(UTC)
    try:
        certificate = read_certificate(settings)
    except SettingsError as error:
        advice = "mend it: `serve` does not start with it, and one that runs keeps the old certificate"
        return [fail("TLS", str(error), advice)]
    if certificate is None:
        return []
    names = ", ".join(certificate.names) or "nobody"
    left_s = certificate.seconds_left(now)
    renew = "renew it, then send `serve` a SIGHUP"
    findings = []
    if left_s <= 0:
        findings.append(fail(SUBJECT, f"has expired {_days(-left_s)} ago", renew))
    elif now < certificate.not_before:
        found = f"is not valid before {certificate.not_before:%Y-%m-%d %H:%M} UTC"
        findings.append(fail(SUBJECT, found, "check this machine's clock, or wait"))
    elif left_s < SOON_S:
        findings.append(warn(SUBJECT, f"expires in {_days(left_s)}", renew))
    else:
        findings.append(fine(SUBJECT, f"for {names}, for another {_days(left_s)}"))
    if not certificate.names:
        advice = "let it be issued with subject alternative names: browsers look at nothing else"
        findings.append(fail(SUBJECT, "is for nobody", advice))
    key = settings.tls_key or settings.tls_certificate
    if key is not None and Path(key).stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        findings.append(
            warn("TLS", f"everybody on this machine may read the key in {key}", f"chmod o= {key}")
        )
    return findings


def _days(seconds: float) -> str:
    return f"{seconds / 86_400:.1f} days"
