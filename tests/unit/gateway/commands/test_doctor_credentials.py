import orjson
import pytest

from gateway.auth.fetching import FetchFailed
from gateway.commands.doctor_credentials import examine_credentials
from gateway.config import Settings
from listeners.findings import Grade
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
