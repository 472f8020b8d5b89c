"""What a certificate's files may hold, and what is said of those that can not be used."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.certificate import Certificate, ServerCertificate, load_certificate, read_certificate
from gateway.config import Settings
from gateway.errors import SettingsError
from tests.support.certificates import Authority, KeyPair
from tests.support.waiting import eventually


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def settings(pair: KeyPair, **more: Any) -> Settings:
    given: dict[str, Any] = {"tls_certificate": str(pair.certificate), "tls_key": str(pair.key), **more}
    return Settings(**given)


def read(given: Settings) -> Certificate:
    certificate = read_certificate(given)
    assert certificate is not None
    return certificate


class TestReading:
    def test_says_how_long_and_for_whom(self, authority: Authority) -> None:
        certificate = read(settings(authority.certify(days=90)))
        left_s = certificate.seconds_left(datetime.now(UTC))
        assert 89 * 86_400 < left_s <= 90 * 86_400
        assert certificate.names == ("localhost", "127.0.0.1")

    def test_one_that_names_nobody(self, authority: Authority) -> None:
        assert read(settings(authority.certify(hosts=()))).names == ()

    def test_key_and_certificate_in_one_file(self, authority: Authority, tmp_path: Path) -> None:
        pair = authority.certify()
        both = tmp_path / "both.pem"
        both.write_bytes(pair.key.read_bytes() + pair.certificate.read_bytes())
        assert read(Settings(tls_certificate=str(both))).names

    def test_an_encrypted_key(self, authority: Authority) -> None:
        assert read(settings(authority.certify(password="geheim"), tls_key_password="geheim")).names

    def test_a_password_that_is_not_needed_does_no_harm(self, authority: Authority) -> None:
        assert read(settings(authority.certify(), tls_key_password="geheim")).names

    def test_none_is_none(self) -> None:
        assert read_certificate(Settings()) is None
        assert load_certificate(Settings(), asyncio.Event()) is None


class TestRefusals:
    """Each one line that names the setting and what is needed, never the password."""

    def refusal(self, given: Settings) -> str:
        with pytest.raises(SettingsError) as caught:
            read_certificate(given)
        assert "\n" not in str(caught.value)
        assert "geheim" not in str(caught.value)
        return str(caught.value)

    def test_a_file_that_is_not_there(self, authority: Authority) -> None:
        pair = authority.certify()
        assert self.refusal(Settings(tls_certificate="/none.pem")) == (
            "GATEWAY_TLS_CERTIFICATE='/none.pem': a readable file is needed (No such file or directory)"
        )
        pair.key.unlink()
        assert self.refusal(settings(pair)).startswith(f"GATEWAY_TLS_KEY='{pair.key}': a readable file")

    def test_a_file_that_holds_something_else(self, authority: Authority) -> None:
        pair = authority.certify()
        assert self.refusal(settings(pair._replace(certificate=pair.key))) == (
            f"GATEWAY_TLS_CERTIFICATE='{pair.key}': holds no certificate in PEM form"
        )
        assert self.refusal(settings(pair._replace(key=pair.certificate))) == (
            f"GATEWAY_TLS_KEY='{pair.certificate}': holds no private key in PEM form"
        )

    def test_no_key_beside_the_certificate(self, authority: Authority) -> None:
        pair = authority.certify()
        assert self.refusal(Settings(tls_certificate=str(pair.certificate))) == (
            f"GATEWAY_TLS_CERTIFICATE='{pair.certificate}': holds no private key in PEM form"
        )

    def test_the_key_of_another(self, authority: Authority) -> None:
        pair = authority.certify()._replace(key=authority.certify("other").key)
        assert self.refusal(settings(pair)) == (
            f"GATEWAY_TLS_KEY='{pair.key}': is the key of another certificate"
        )

    def test_a_password_that_is_missing_or_wrong(self, authority: Authority) -> None:
        pair = authority.certify(password="geheim")
        assert self.refusal(settings(pair)) == (
            f"GATEWAY_TLS_KEY='{pair.key}': is encrypted, so GATEWAY_TLS_KEY_PASSWORD is needed"
        )
        assert "GATEWAY_TLS_KEY_PASSWORD is not its password" in self.refusal(
            settings(pair, tls_key_password="falsch")
        )

    def test_a_certificate_that_openssl_does_not_take(self, authority: Authority) -> None:
        pair = authority.certify()
        broken = b"-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----\n"
        pair.certificate.write_bytes(pair.certificate.read_bytes() + broken)  # in place of its issuer's
        assert "in PEM form" in self.refusal(settings(pair)) or "can not be used" in self.refusal(
            settings(pair)
        )

    def test_a_key_without_a_certificate(self) -> None:
        assert self.refusal(Settings(tls_key="/some.key")) == (
            "GATEWAY_TLS_KEY is set and GATEWAY_TLS_CERTIFICATE is not: set both or none"
        )
        assert self.refusal(Settings(tls_key_password="geheim")).startswith("GATEWAY_TLS_KEY_PASSWORD is set")


class TestReloading:
    @pytest.fixture
    def pair(self, authority: Authority) -> KeyPair:
        return authority.certify(days=90)

    @pytest.fixture
    def served(self, pair: KeyPair) -> ServerCertificate:
        served = load_certificate(settings(pair), asyncio.Event())
        assert served is not None
        return served

    def days_left(self, served: ServerCertificate) -> float:
        left = served.statistics()["gateway_certificate_seconds_left"]
        assert isinstance(left, float)
        return left / 86_400

    def test_a_new_one_serves_from_then_on(self, authority: Authority, served: ServerCertificate) -> None:
        authority.certify(days=30)
        assert round(self.days_left(served)) == 90
        with capture_logs() as lines:
            assert served.reload()
        assert round(self.days_left(served)) == 30
        assert [line["event"] for line in lines] == ["certificate reloaded"]
        assert served.statistics()["gateway_certificate_reloads"] == {"success": 1, "failure": 0}

    def test_a_broken_one_leaves_the_old_and_one_line(self, pair: KeyPair, served: ServerCertificate) -> None:
        pair.key.write_text("nonsense")
        with capture_logs() as lines:
            assert not served.reload()
        assert round(self.days_left(served)) == 90
        (line,) = lines
        assert line["event"] == "certificate not reloaded: the old one stays"
        assert "GATEWAY_TLS_KEY=" in line["reason"]
        assert served.statistics()["gateway_certificate_reloads"] == {"success": 0, "failure": 1}

    async def test_whoever_asks_sets_an_event(self, authority: Authority, pair: KeyPair) -> None:
        asked = asyncio.Event()
        served = load_certificate(settings(pair), asked)
        assert served is not None
        running = asyncio.ensure_future(served.run())
        authority.certify(days=30)
        asked.set()
        await eventually(lambda: round(self.days_left(served)) == 30)
        authority.certify(days=10)
        asked.set()
        await eventually(lambda: round(self.days_left(served)) == 10)
        running.cancel()
        await asyncio.wait([running])

    @pytest.mark.parametrize("days", [{"days": -1}, {"days": 90, "begins_in_days": 1}])
    def test_one_that_is_not_valid_now_is_shown_all_the_same_and_said(
        self, authority: Authority, days: dict[str, Any]
    ) -> None:
        with capture_logs() as lines:
            served = load_certificate(settings(authority.certify(**days)), asyncio.Event())
        assert served is not None
        assert [line["event"] for line in lines] == [
            "clients will not trust the certificate: it is not valid now"
        ]

    def test_how_long_it_lasts_goes_by_the_clock(self, pair: KeyPair) -> None:
        later = datetime.now(UTC) + timedelta(days=91)
        served = ServerCertificate(lambda: read(settings(pair)), clock=lambda: later)
        assert -1.1 < self.days_left(served) < -0.9
