import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.config import Address, Settings, load_settings, settings_table
from gateway.errors import SettingsError
from gateway.settings_document import settings_document, with_summary
from tests.support.signed import KEYS

ROOT = Path(__file__).parents[3]

# PROTOCOL.md, section 4: every variable, with the default where the contract gives one.
CONTRACT: dict[str, Any] = {
    "DATABASE_URL": None,
    "LISTENER_DATABASE_URL": None,
    "REDIS_URL": None,
    "LISTEN": Address("0.0.0.0", 8080),
    "OPS_LISTEN": Address("127.0.0.1", 8081),
    "WORKERS": 1,
    "RELAY": "auto",
    "POLL_MS": 10,
    "FLUSH_MS": 50,
    "HEARTBEAT_S": 20,
    "SLOW_CLIENT_S": 30,
    "DRAIN_S": 20,
    "ANONYMOUS": "public",
    "ALLOWED_ORIGINS": (),
    "JWT_SECRET": None,
    "JWKS_URL": None,
    "JWKS_REFRESH_S": 300,
    "JWT_ALGORITHMS": ("RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519"),
    "JWT_TYPE": None,
    "CLAIM_SUBJECT": "sub",
    "CLAIM_VENDOR": "vendor_id",
    "CLAIM_LOCATIONS": "locations",
    "CLAIM_PERMISSIONS": "permissions",
    "TOKEN": None,
    "JWT_ISSUER": None,
    "JWT_AUDIENCE": None,
    "JWT_LEEWAY_S": 5,
    "SERVICE_KEYS": None,
    "SERVICE_KEYS_FILE": None,
    "LOG_FORMAT": "auto",
    "LOG_LEVEL": "info",
    "REDIS_PREFIX": "gw",
    "CANARY_MS": 1000,
    "PROBE_TIMEOUT_MS": 2000,
    "LOG_RETENTION_S": 86400,
    "VERIFY_S": 600,
    "MAX_TOPIC_ITEMS": 200_000,
    "LOW_STOCK": 5,
    "AUTH_TIMEOUT_S": 5,
    "TLS_CERTIFICATE": None,
    "TLS_KEY": None,
    "TLS_KEY_PASSWORD": None,
    "MAX_CONNECTIONS": 0,
    "MAX_UNAUTHENTICATED": 1000,
    "MAX_CONNECTIONS_PER_ADDRESS": 5000,
    "HANDSHAKES_PER_ADDRESS_PER_S": 200,
    "TRUSTED_PROXIES": (),
    "PROXY_PROTOCOL": "off",
    "MAX_CONNECTIONS_PER_PRINCIPAL": 5000,
    "MAX_HALF_OPEN": 5000,
    "MAX_IDLE_HTTP": 2000,
    "MESSAGES_PER_S": 1000,
    "SNAPSHOT_ROWS_PER_S": 1_000_000,
    "HTTP_REQUESTS_PER_S": 2000,
    "AUTH_PER_S": 500,
    "TICKETS_PER_S": 200,
    "MAX_LOADS_PER_PRINCIPAL": 5000,
    "PENDING_BYTES": 65_536,
    "MAX_TOPICS": 500,
    "MAX_MESSAGE_BYTES": 16384,
}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("GATEWAY_")]:
        monkeypatch.delenv(name)


def refusal(overrides: dict[str, object] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(overrides)
    line = str(caught.value)
    assert "\n" not in line
    return line


class TestTheContract:
    def test_every_variable_has_its_default(self) -> None:
        settings = load_settings()
        assert {name.upper(): getattr(settings, name) for name in Settings.model_fields} == CONTRACT

    def test_whole_seconds_are_told_as_whole_numbers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert repr(load_settings().heartbeat_s) == "20"
        monkeypatch.setenv("GATEWAY_HEARTBEAT_S", "0.5")
        assert load_settings().heartbeat_s == 0.5

    def test_every_setting_says_what_zero_means(self) -> None:
        for name, field in Settings.model_fields.items():
            if isinstance(field.default, int | float):
                assert "0: " in str(field.description) or "0 is not allowed" in str(field.description), name

    def test_the_object_is_frozen(self) -> None:
        with pytest.raises(ValidationError):
            load_settings().poll_ms = 5  # type: ignore[misc]  # that it is an error is what is tested


class TestValues:
    @pytest.mark.parametrize(
        ("text", "address"),
        [
            ("127.0.0.1:9000", Address("127.0.0.1", 9000)),
            ("[::1]:0", Address("::1", 0)),
            ("gateway.internal:80", Address("gateway.internal", 80)),
        ],
    )
    def test_addresses(self, monkeypatch: pytest.MonkeyPatch, text: str, address: Address) -> None:
        monkeypatch.setenv("GATEWAY_LISTEN", text)
        assert load_settings().listen == address
        assert str(address) == text

    def test_origins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GATEWAY_ALLOWED_ORIGINS", "https://Shop.example/, http://localhost:3000,*")
        assert load_settings().allowed_origins == ("https://shop.example", "http://localhost:3000", "*")

    def test_the_log_level_in_any_case(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GATEWAY_LOG_LEVEL", "INFO")
        assert load_settings().log_level == "info"

    def test_an_empty_variable_counts_as_unset(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GATEWAY_POLL_MS", "")
        monkeypatch.setenv("GATEWAY_REDIS_URL", "")
        settings = load_settings()
        assert settings.poll_ms == 10
        assert settings.redis_url is None

    def test_options_win_over_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GATEWAY_WORKERS", "3")
        assert load_settings({"workers": None}).workers == 3
        assert load_settings({"workers": "2"}).workers == 2

    def test_secrets_stay_out_of_the_representation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GATEWAY_DATABASE_URL", "postgresql://u:s3cret@h/d")
        monkeypatch.setenv("GATEWAY_JWT_SECRET", "s3cret" * 6)
        monkeypatch.setenv("GATEWAY_TOKEN", "s3cret")
        assert "s3cret" not in repr(load_settings())


class TestRefusals:
    @pytest.mark.parametrize(
        ("variable", "value", "line"),
        [
            (
                "JWT_SECRET",
                "s3cret" * 5,
                "GATEWAY_JWT_SECRET=(secret): a random text of at least 32 bytes is needed",
            ),
            (
                "JWKS_URL",
                "http://127.0.0.1/jwks",
                "GATEWAY_JWKS_URL='http://127.0.0.1/jwks': a URL like https://id.example/jwks is needed",
            ),
            (
                "JWT_ALGORITHMS",
                "RS256,HS256",
                (
                    "GATEWAY_JWT_ALGORITHMS='RS256,HS256': "
                    "some of RS256, PS256, ES256, ES384, EdDSA, Ed25519, separated by commas is needed"
                ),
            ),
            ("JWT_LEEWAY_S", "61", "GATEWAY_JWT_LEEWAY_S='61': a number from 0 to 60 is needed"),
            ("POLL_MS", "fast", "GATEWAY_POLL_MS='fast': a whole number from 1 to 10000 is needed"),
            ("POLL_MS", "0", "GATEWAY_POLL_MS='0': a whole number from 1 to 10000 is needed"),
            ("HEARTBEAT_S", "nan", "GATEWAY_HEARTBEAT_S='nan': a number from 0.05 to 3600 is needed"),
            ("MAX_TOPICS", "-1", "GATEWAY_MAX_TOPICS='-1': a whole number, 0 for no limit, is needed"),
            ("ANONYMOUS", "maybe", "GATEWAY_ANONYMOUS='maybe': off, public or exact is needed"),
            ("LISTEN", "8080", "GATEWAY_LISTEN='8080': host:port is needed"),
            ("LISTEN", "h:70000", "GATEWAY_LISTEN='h:70000': host:port is needed"),
            ("REDIS_PREFIX", "a{b}", "GATEWAY_REDIS_PREFIX='a{b}': 1 to 64 of A-Z a-z 0-9 . _ : - is needed"),
            ("LOG_LEVEL", "loud", "GATEWAY_LOG_LEVEL='loud': debug, info, warning or error is needed"),
            (
                "ALLOWED_ORIGINS",
                "shop.example",
                (
                    "GATEWAY_ALLOWED_ORIGINS='shop.example': "
                    "origins like https://shop.example, separated by commas, or * is needed"
                ),
            ),
        ],
    )
    def test_a_bad_value(self, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, line: str) -> None:
        monkeypatch.setenv(f"GATEWAY_{variable}", value)
        assert refusal() == line

    def test_a_bad_option_is_named_as_it_was_typed(self) -> None:
        assert refusal({"ops_listen": "x"}) == "--ops-listen='x': host:port is needed"

    def test_a_bad_url_is_shown_without_its_password(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GATEWAY_DATABASE_URL", "mysql://u:s3cret@db/shop")
        assert refusal() == (
            "GATEWAY_DATABASE_URL='mysql://u:***@db/shop': "
            "a URL like postgresql://user@host:5432/shop is needed"
        )

    def test_a_bad_secret_that_is_no_url_is_not_shown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GATEWAY_REDIS_URL", "s3cret")
        assert refusal() == "GATEWAY_REDIS_URL=(secret): a URL like redis://host:6379/0 is needed"

    def test_several_mistakes_are_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GATEWAY_POLL_MS", "x")
        monkeypatch.setenv("GATEWAY_FLUSH_MS", "y")
        assert refusal().endswith("is needed; 1 more to correct")

    def test_a_long_value_and_line_breaks_stay_one_short_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GATEWAY_POLL_MS", "1\n2" * 200)
        assert len(refusal()) < 250


class TestUnknownVariables:
    def test_a_slip_of_the_finger(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GATEWAY_POLLMS", "5")
        assert refusal() == "GATEWAY_POLLMS='5': there is no such setting; did you mean GATEWAY_POLL_MS?"

    def test_an_invention(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GATEWAY_COLOUR", "red")
        assert (
            refusal() == "GATEWAY_COLOUR='red': there is no such setting; docs/settings.md lists all of them"
        )

    def test_the_value_of_a_mistyped_secret_is_not_shown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GATEWAY_JWT_SECRT", "s3cret")
        assert refusal().startswith("GATEWAY_JWT_SECRT=(not shown): there is no such setting")

    def test_only_secrets_come_from_files(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GATEWAY_POLL_MS_FILE", "/run/secrets/poll")
        assert refusal().startswith("GATEWAY_POLL_MS_FILE='/run/secrets/poll': there is no such setting")

    def test_variables_of_the_tests_are_no_settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GATEWAY_TEST_DATABASE_URL", "postgresql://h/d")
        assert load_settings().database_url is None

    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("GATEWAY_SERVICE_HOST", "10.0.0.1"),
            ("GATEWAY_SERVICE_PORT", "8080"),
            ("GATEWAY_SERVICE_PORT_HTTP", "8080"),
            ("GATEWAY_PORT", "tcp://10.0.0.1:8080"),
            ("GATEWAY_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("GATEWAY_PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("GATEWAY_REDIS_SERVICE_HOST", "10.0.0.2"),
        ],
    )
    def test_kubernetes_own_variables_for_a_service_called_gateway_are_let_through(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
    ) -> None:
        monkeypatch.setenv(variable, value)
        assert load_settings().poll_ms == 10

    def test_a_port_that_is_meant_as_a_setting_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GATEWAY_PORT", "9000")
        assert refusal().startswith("GATEWAY_PORT='9000': there is no such setting")


class TestSecretFiles:
    def test_a_secret_is_read_from_its_file(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        path = tmp_path / "redis"
        path.write_text("redis://:s3cret@cache/0\n")
        monkeypatch.setenv("GATEWAY_REDIS_URL_FILE", str(path))
        assert load_settings().redis_url == "redis://:s3cret@cache/0"

    def test_the_variable_wins_over_the_file(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        path = tmp_path / "redis"
        path.write_text("redis://file/0")
        monkeypatch.setenv("GATEWAY_REDIS_URL_FILE", str(path))
        monkeypatch.setenv("GATEWAY_REDIS_URL", "redis://variable/0")
        assert load_settings().redis_url == "redis://variable/0"

    def test_a_missing_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GATEWAY_JWT_SECRET_FILE", "/nowhere/secret")
        assert refusal() == (
            "GATEWAY_JWT_SECRET_FILE='/nowhere/secret': a readable file is needed (No such file or directory)"
        )

    def test_a_file_that_is_no_text(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        path = tmp_path / "secret"
        path.write_bytes(b"\xff\xfe\x00")
        monkeypatch.setenv("GATEWAY_JWT_SECRET_FILE", str(path))
        assert refusal().endswith("a readable file is needed (not UTF-8)")

    def test_a_bad_value_names_the_file_and_not_what_is_in_it(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        path = tmp_path / "redis"
        path.write_text("s3cret")
        monkeypatch.setenv("GATEWAY_REDIS_URL_FILE", str(path))
        line = refusal()
        assert line.startswith("GATEWAY_REDIS_URL_FILE=")
        assert "s3cret" not in line


class TestServiceKeys:
    ALLOWED = "keys as name:whsec_<base64 of 24 to 64 random bytes>, up to two a name, and what they may"

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (f"a:{KEYS['old']},a:whsec_c2VjcmV0", "entry 2 (a): a key has 24 to 64 bytes, and this one 6"),
            (KEYS["old"], "entry 1 does not begin with the name of a service and a colon"),
            ("some text", "entry 1 does not begin with the name of a service and a colon"),
        ],
    )
    def test_what_is_wrong_is_told_without_a_key(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str, reason: str
    ) -> None:
        monkeypatch.setenv("GATEWAY_SERVICE_KEYS", value)
        allowed = f"{self.ALLOWED}, separated by commas, is needed"
        assert refusal() == f"GATEWAY_SERVICE_KEYS=(secret): {reason}; {allowed}"
        path = tmp_path / "keys"
        path.write_text(value)
        monkeypatch.delenv("GATEWAY_SERVICE_KEYS")
        monkeypatch.setenv("GATEWAY_SERVICE_KEYS_FILE", str(path))
        line = refusal()
        assert line.startswith("GATEWAY_SERVICE_KEYS_FILE=")
        assert line.endswith(f": {reason}; a file of {self.ALLOWED}, one a line, is needed")

    def test_their_file_is_watched_and_not_read_here(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        path = tmp_path / "keys"
        path.write_text(f"a:{KEYS['old']}\n")
        monkeypatch.setenv("GATEWAY_SERVICE_KEYS_FILE", str(path))
        settings = load_settings()
        assert (settings.service_keys, settings.service_keys_file) == (None, path)

    def test_a_missing_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GATEWAY_SERVICE_KEYS_FILE", "/nowhere/keys")
        assert "the file can not be read: No such file or directory; " in refusal()

    def test_they_stay_out_of_the_representation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GATEWAY_SERVICE_KEYS", f"a:{KEYS['old']}")
        assert "whsec_" not in repr(load_settings())


class TestRequiredServers:
    def test_they_have_no_default(self) -> None:
        settings = load_settings()
        with pytest.raises(
            SettingsError, match=r"^GATEWAY_DATABASE_URL is not set: a URL like postgresql://"
        ):
            settings.require_database_url()
        with pytest.raises(SettingsError, match="GATEWAY_DATABASE_URL is not set"):
            settings.require_listener_url()
        with pytest.raises(SettingsError, match="GATEWAY_REDIS_URL is not set"):
            settings.require_redis_url()

    def test_the_listener_uses_the_database_unless_told_otherwise(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GATEWAY_DATABASE_URL", "postgresql://pooler/d")
        monkeypatch.setenv("GATEWAY_REDIS_URL", "redis://h")
        settings = load_settings()
        assert settings.require_listener_url() == settings.require_database_url() == "postgresql://pooler/d"
        assert settings.require_redis_url() == "redis://h"
        monkeypatch.setenv("GATEWAY_LISTENER_DATABASE_URL", "postgresql://direct/d")
        assert load_settings().require_listener_url() == "postgresql://direct/d"


class TestTheDocument:
    def test_the_table_has_every_variable(self) -> None:
        assert all(f"| `GATEWAY_{name}` |" in settings_table() for name in CONTRACT)

    def test_docs_settings_md_is_current(self) -> None:
        assert (ROOT / "docs" / "settings.md").read_text() == settings_document(), "run: make specs"

    def test_the_readme_has_every_default(self) -> None:
        readme = (ROOT / "README.md").read_text()
        assert with_summary(readme) == readme, "run: make specs"
        assert all(f"| `GATEWAY_{name}` |" in readme for name in CONTRACT)
