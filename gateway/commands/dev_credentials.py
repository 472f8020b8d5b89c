"""A key and a token of one's own, so that everything can be tried that needs credentials."""

import os
import secrets
from pathlib import Path
from typing import Final

from gateway.auth.building import claim_names
from gateway.auth.minting import mint_token
from gateway.config import Settings
from protocol.principal import EVERY, Permission

__all__ = ["lasting_secret", "token_for_everything"]

TTL_S: Final = 7 * 86_400


def lasting_secret(data_dir: Path) -> str:
    """The same in every run, so that `token` can be told of it: GATEWAY_JWT_SECRET_FILE=.dev/jwt-secret."""
    path = data_dir / "jwt-secret"
    if not path.exists():
        _write_private(path, secrets.token_urlsafe(48) + "\n")
    return path.read_text().strip()


def token_for_everything(settings: Settings) -> str | None:
    """None where tokens come from somebody else."""
    if settings.jwt_secret is None:
        return None
    return mint_token(
        settings.jwt_secret,
        subject="dev",
        vendor=EVERY,
        locations=[EVERY],
        permissions=list(Permission),
        ttl_s=TTL_S,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        token_type=settings.jwt_type,
        names=claim_names(settings),
    )


def _write_private(path: Path, text: str) -> None:
    """For its owner's eyes alone."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
