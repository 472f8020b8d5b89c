"""What the URLs of servers tell before anybody is asked, and what doctor says about the ways to them."""

from pathlib import Path
from typing import Any

import pytest

from gateway.commands.doctor_links import examine_links
from gateway.config import Settings
from gateway.errors import SettingsError
from gateway.server_urls import check_files, is_local

SAFE = "postgresql://u@db.example/d?sslmode=verify-full"


class TestFiles:
    def test_those_that_are_there(self, tmp_path: Path) -> None:
        file = tmp_path / "ca.pem"
        file.write_text("anything")
        check_files("X", f"postgresql://u@h/d?sslmode=verify-full&sslrootcert={file}&sslcert=")
        check_files("X", f"rediss://h?ssl_ca_certs={file}&ssl_check_hostname=true&socket_timeout=1")
        check_files("X", "redis://h/0")

    @pytest.mark.parametrize(
        "url", ["postgresql://u:s3cret@h/d?sslrootcert=/none", "rediss://:s3cret@h?ssl_ca_certs=/none"]
    )
    def test_one_that_is_not(self, url: str) -> None:
        with pytest.raises(SettingsError, match=r"^X: ssl.*='/none': a readable file is needed") as caught:
            check_files("X", url)
        assert "s3cret" not in str(caught.value)

    def test_a_parameter_that_is_none(self) -> None:
        with pytest.raises(SettingsError, match=r"^X: there is no parameter 'ssl_ca_cert'; of TLS there are"):
            check_files("X", "rediss://h?ssl_ca_cert=/none")

    def test_one_without_tls(self) -> None:
        with pytest.raises(SettingsError, match="has no effect without TLS: write rediss://"):
            check_files("X", "redis://h?ssl_ca_certs=/none")

    def test_whoever_needs_the_url_is_told(self) -> None:
        settings = Settings(
            database_url="postgresql://h/d?sslrootcert=/none",
            listener_database_url="postgresql://h/d?sslkey=/none",
            redis_url="rediss://h?ssl_keyfile=/none",
        )
        for require, name in (
            (settings.require_database_url, "GATEWAY_DATABASE_URL: sslrootcert"),
            (settings.require_listener_url, "GATEWAY_LISTENER_DATABASE_URL: sslkey"),
            (settings.require_redis_url, "GATEWAY_REDIS_URL: ssl_keyfile"),
        ):
            with pytest.raises(SettingsError, match=f"^{name}"):
                require()


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("postgresql://u@localhost/d", True),
        ("postgresql:///d?host=/run/postgresql", True),
        ("postgresql:///d?host=db.example", False),
        ("redis://127.0.0.1:6379", True),
        ("unix:///run/redis.sock", True),
        ("redis://[::1]:6379", True),
        ("redis://redis.example", False),
    ],
)
def test_what_stays_on_this_machine(url: str, local: bool) -> None:
    assert is_local(url) is local


class TestDoctor:
    def found(self, **settings: Any) -> list[tuple[str, str]]:
        return [(f.subject, f.found) for f in examine_links(Settings(**settings))]

    def test_safe_ways_are_not_spoken_of(self) -> None:
        assert self.found(database_url=SAFE, listener_database_url=SAFE, redis_url="rediss://r.example") == []
        assert self.found(database_url="postgresql://localhost/d", redis_url="redis://localhost") == []
        assert self.found() == []

    @pytest.mark.parametrize(
        ("end", "words"),
        [
            ("", "sslmode=prefer: what goes over it may not be encrypted"),
            ("?sslmode=disable", "may not be encrypted"),
            ("?sslmode=require", "anybody may answer"),
            ("?sslmode=verify-ca", "any certificate of that authority"),
        ],
    )
    def test_postgres(self, end: str, words: str) -> None:
        (found,) = self.found(database_url=f"postgresql://db.example/d{end}")
        assert found[0] == "GATEWAY_DATABASE_URL"
        assert words in found[1]

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("redis://r.example", "is not encrypted"),
            ("redis+cluster://r.example", "is not encrypted"),
            ("rediss://r.example?ssl_cert_reqs=none", "no certificate is checked"),
            ("rediss://r.example?ssl_check_hostname=false", "any certificate of that authority"),
        ],
    )
    def test_redis(self, url: str, words: str) -> None:
        ((subject, found),) = self.found(redis_url=url)
        assert subject == "GATEWAY_REDIS_URL"
        assert words in found
