from pathlib import Path

import orjson
import pytest

from gateway.auth.fetching import FetchFailed
from gateway.commands.doctor_credentials import examine_credentials
from gateway.config import Settings
from listeners.findings import Grade
from tests.support.signed import KEYS
from tests.support.tokens import SECRET, ProviderKey

URL = "https://id.example/jwks"


async def told(settings: Settings, body: bytes | None = b"") -> dict[str, Grade]:
    async def fetch(url: str) -> bytes:
        assert url == URL
        if body is None:
            raise FetchFailed("away")
        return body

    return {finding.subject: finding.grade for finding in await examine_credentials(settings, fetch=fetch)}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(), {}),
        (Settings(anonymous="off"), {"credentials": Grade.FAILURE}),
        (Settings(jwt_secret=SECRET), {"GATEWAY_JWT_SECRET": Grade.WARNING}),
        (
            Settings(jwt_secret=SECRET, anonymous="exact"),
            {"GATEWAY_JWT_SECRET": Grade.WARNING, "GATEWAY_ANONYMOUS": Grade.WARNING},
        ),
    ],
)
async def test_without_a_provider(settings: Settings, expected: dict[str, Grade]) -> None:
    assert await told(settings) == expected


async def test_a_provider() -> None:
    keys = orjson.dumps({"keys": [ProviderKey("k", "ES256").public()]})
    strict = Settings(jwks_url=URL, jwt_issuer="https://id.example", jwt_audience="inventory")
    assert await told(strict, keys) == {"GATEWAY_JWKS_URL": Grade.OK}
    assert await told(Settings(jwks_url=URL), keys) == {"GATEWAY_JWKS_URL": Grade.OK, "tokens": Grade.WARNING}
    for body in (None, b"<html>", b'{"keys": []}'):
        assert await told(strict, body) == {"GATEWAY_JWKS_URL": Grade.FAILURE}


OLD, NEW = f"tills:{KEYS['old']},tills:permission=inv:adjust", f"tills:{KEYS['new']}"
FINE = "GATEWAY_SERVICE_KEYS: 1 service with 1 key"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (OLD, [FINE]),
        (f"{OLD},{NEW}", ["GATEWAY_SERVICE_KEYS: 1 service with 2 keys", "services: two keys live: tills"]),
        (NEW, [FINE, "services: may do nothing: tills"]),
        (
            f"{OLD},billing:{KEYS['other']}",
            ["GATEWAY_SERVICE_KEYS: 2 services with 2 keys", "services: may do nothing: billing"],
        ),
    ],
)
async def test_services(keys: str, expected: list[str]) -> None:
    """Where credentials are needed those of services will do."""
    for anonymous in ("off", "public"):
        findings = await examine_credentials(Settings(service_keys=keys, anonymous=anonymous))
        assert [f"{finding.subject}: {finding.found}" for finding in findings] == expected
        assert all(key not in str(findings) for key in KEYS.values())


async def test_the_file_of_services(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(OLD)
    settings = Settings(service_keys_file=path)
    assert await told(settings) == {"GATEWAY_SERVICE_KEYS_FILE": Grade.OK}
    path.write_text("")  # since the settings were read
    assert await told(settings) == {"GATEWAY_SERVICE_KEYS_FILE": Grade.FAILURE}
