"""The gateway as a client of Postgres and Redis over TLS: who is believed, and what is said of who is not."""

import ssl
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from gateway.config import Settings
from gateway.startup import StartRefused, Startup
from listeners.postgres import connected
from listeners.redis_client import connect_redis
from tests.support.certificates import Authority, KeyPair
from tests.support.gateway import running_gateway
from tests.support.logins import as_login
from tests.support.tls_proxy import tls_before_postgres, tls_before_redis
from tests.support.waiting import eventually
from tests.support.watcher import watching


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def server(authority: Authority) -> ssl.SSLContext:
    return authority.server_context(authority.certify())


def verified(url: str, authority: Authority) -> str:
    return f"{url}?sslmode=verify-full&sslrootcert={authority.file}"


def trusted(url: str, authority: Authority) -> str:
    return f"{url}?ssl_ca_certs={authority.file}"


async def refusal(database_url: str, redis_url: str) -> str:
    """Of the start: a server that is not believed has answered, so it is not waited for."""
    given: dict[str, Any] = {"database_url": database_url, "redis_url": redis_url}
    with capture_logs() as lines, pytest.raises(StartRefused) as caught:
        await Startup(Settings(**given)).wait()
    assert lines == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


def ask_for_password(hba_file: Path, role: str) -> None:
    hba_file.write_text(f"host all {role} 127.0.0.1/32 scram-sha-256\n{hba_file.read_text()}")


async def test_everything_works_over_it(
    authority: Authority,
    server: ssl.SSLContext,
    database_url: str,
    pg: asyncpg.Connection,
    redis_url: str,
    redis_prefix: str,
) -> None:
    await pg.execute(
        """
        INSERT INTO vendors (vendor_id, name) VALUES ('V1', 'Vendor');
        INSERT INTO locations (location_id, vendor_id, name) VALUES ('L1', 'V1', 'Main street');
        INSERT INTO products (product_id, vendor_id, sku, name, price_minor, status)
            VALUES ('P1', 'V1', 'S1', 'Product', 100, 'published');
        INSERT INTO inventory (product_id, location_id, vendor_id, on_hand) VALUES ('P1', 'L1', 'V1', 10)
        """
    )
    async with (
        tls_before_postgres(database_url, server) as postgres,
        tls_before_redis(redis_url, server) as redis,
        running_gateway(verified(postgres, authority), trusted(redis, authority), redis_prefix) as gateway,
    ):
        await eventually(gateway.is_ready, timeout_s=15)
        async with watching(gateway.url, ["location:L1"]) as client:
            await eventually(lambda: client.is_complete("location:L1"))
            await pg.execute("UPDATE inventory SET on_hand = 7 WHERE product_id = 'P1'")
            await eventually(lambda: client.copies["location:L1"].items["stock:P1:L1"]["on_hand"] == 7)


class TestPostgres:
    async def test_an_authority_that_is_not_ours(
        self, server: ssl.SSLContext, tmp_path: Path, database_url: str, redis_url: str
    ) -> None:
        stranger = Authority(tmp_path, "stranger")
        async with tls_before_postgres(database_url, server) as url:
            message = await refusal(verified(url, stranger), redis_url)
        assert message.startswith("GATEWAY_DATABASE_URL: Postgres at ")
        assert "its certificate is not trusted: " in message

    async def test_a_certificate_for_another_host(
        self, authority: Authority, database_url: str, redis_url: str
    ) -> None:
        context = authority.server_context(authority.certify(hosts=("db.example",)))
        async with tls_before_postgres(database_url, context) as url:
            message = await refusal(verified(url, authority), redis_url)
            assert "its certificate is not trusted: IP address mismatch" in message
            ca_alone = verified(url, authority).replace("verify-full", "verify-ca")
            async with connected(ca_alone, purpose="test"):
                pass

    async def test_a_server_without_tls_is_not_taken(
        self, authority: Authority, database_url: str, redis_url: str
    ) -> None:
        async with tls_before_postgres(database_url, None) as url:
            message = await refusal(verified(url, authority), redis_url)
        assert message.endswith("it does not speak TLS, which the URL asks for (sslmode)")

    async def test_a_client_with_a_certificate_of_its_own(
        self, authority: Authority, database_url: str
    ) -> None:
        identity = authority.certify("gateway", hosts=())
        context = authority.server_context(authority.certify(), wants_client=True)
        async with tls_before_postgres(database_url, context) as url:
            shown = f"&sslcert={identity.certificate}&sslkey={identity.key}"
            async with connected(verified(url, authority) + shown, purpose="test") as connection:
                assert await connection.fetchval("SELECT 1") == 1
            with pytest.raises(Exception, match="Postgres at "):
                async with connected(verified(url, authority), purpose="test"):
                    pass

    async def test_a_file_that_is_no_certificate(
        self, server: ssl.SSLContext, authority: Authority, database_url: str, redis_url: str
    ) -> None:
        authority.file.write_text("nonsense")
        async with tls_before_postgres(database_url, server) as url:
            message = await refusal(verified(url, authority), redis_url)
        assert "a certificate or key file that the URL names can not be used" in message

    async def test_a_wrong_password(self, private_postgres: Any, redis_url: str) -> None:
        admin = await asyncpg.connect(private_postgres.url)
        try:
            await admin.execute("CREATE ROLE keeper LOGIN PASSWORD 'right'")
            file = Path(await admin.fetchval("SHOW hba_file"))
            ask_for_password(file, "keeper")
            await admin.execute("SELECT pg_reload_conf()")

            async def asked() -> bool:
                rules = await admin.fetch(
                    "SELECT * FROM pg_hba_file_rules WHERE auth_method = 'scram-sha-256'"
                )
                return len(rules) == 1

            await eventually(asked)
        finally:
            await admin.close()
        message = await refusal(as_login(private_postgres.url, "keeper:wrong"), redis_url)
        assert "GATEWAY_DATABASE_URL: " in message
        assert "password authentication failed" in message
        assert "keeper:***@" in message
        async with connected(as_login(private_postgres.url, "keeper:right"), purpose="test"):
            pass


class TestRedis:
    async def test_an_authority_that_is_not_ours(
        self, server: ssl.SSLContext, tmp_path: Path, database_url: str, redis_url: str
    ) -> None:
        stranger = Authority(tmp_path, "stranger")
        async with tls_before_redis(redis_url, server) as url:
            message = await refusal(database_url, trusted(url, stranger))
        assert message.startswith("GATEWAY_REDIS_URL: Redis: its certificate is not trusted: ")

    async def test_a_certificate_for_another_host(
        self, authority: Authority, database_url: str, redis_url: str
    ) -> None:
        context = authority.server_context(authority.certify(hosts=("redis.example",)))
        async with tls_before_redis(redis_url, context) as url:
            message = await refusal(database_url, trusted(url, authority))
        assert "its certificate is not trusted: IP address mismatch" in message

    async def test_a_client_with_a_certificate_of_its_own(self, authority: Authority, redis_url: str) -> None:
        identity: KeyPair = authority.certify("gateway", hosts=())
        context = authority.server_context(authority.certify(), wants_client=True)
        async with tls_before_redis(redis_url, context) as url:
            shown = f"&ssl_certfile={identity.certificate}&ssl_keyfile={identity.key}"
            client = connect_redis(trusted(url, authority) + shown)
            try:
                assert await client.execute_command("PING") in (b"PONG", True)
            finally:
                await client.aclose()

    async def test_a_file_that_is_no_certificate(
        self, server: ssl.SSLContext, authority: Authority, database_url: str, redis_url: str
    ) -> None:
        authority.file.write_text("nonsense")
        async with tls_before_redis(redis_url, server) as url:
            message = await refusal(database_url, trusted(url, authority))
        assert "a certificate or key file that the URL names can not be used" in message
