"""What `doctor` finds out by trying."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from listeners import doctor_postgres
from listeners.doctor_postgres import examine_listener, examine_postgres
from listeners.doctor_redis import examine_redis
from listeners.findings import Finding, Grade
from listeners.keys import Keys
from listeners.postgres import connected
from listeners.redis_client import connect_redis
from listeners.topic_store import TopicStore

pytestmark = pytest.mark.integration


def about(subject: str, findings: list[Finding]) -> Finding:
    (finding,) = [finding for finding in findings if finding.subject == subject]
    return finding


class TestSessions:
    async def test_a_direct_connection(self, database_url: str) -> None:
        (finding,) = await examine_listener(database_url, timeout_s=5)
        assert finding.grade is Grade.OK

    async def test_a_pooler_that_shares_a_session_between_clients(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with connected(database_url, purpose="test") as shared:

            @asynccontextmanager
            async def pooled(*_: object, **__: object) -> AsyncIterator[Any]:
                yield shared

            monkeypatch.setattr(doctor_postgres, "connected", pooled)
            (finding,) = await examine_listener(database_url, timeout_s=5)
        assert finding.grade is Grade.FAILURE
        assert finding.found.startswith("session locks do not work at ")
        assert "past the transaction pooler" in finding.advice

    async def test_notifications_that_do_not_arrive(
        self, database_url: str, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # NOTIFY does not leave its database, so two of them behave like a pooler that forgets LISTEN.
        urls = iter([database_url, empty_database_url])

        @asynccontextmanager
        async def apart(*_: object, **__: object) -> AsyncIterator[Any]:
            async with connected(next(urls), purpose="test") as connection:
                yield connection

        monkeypatch.setattr(doctor_postgres, "connected", apart)
        (finding,) = await examine_listener(database_url, timeout_s=0.2)
        assert finding.grade is Grade.FAILURE
        assert "LISTEN" in finding.found


class TestPostgres:
    async def test_clocks_that_differ(self, database_url: str) -> None:
        findings = await examine_postgres(database_url, timeout_s=5, clock=lambda: time.time() - 90)
        finding = about("clock", findings)
        assert finding.grade is Grade.WARNING
        assert "+90.0 s" in finding.found
        assert "NTP" in finding.advice

    async def test_few_connections_are_left(self, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor_postgres, "CONNECTIONS", 1_000_000)
        finding = about("connections", await examine_postgres(database_url, timeout_s=5))
        assert finding.grade is Grade.WARNING
        assert "max_connections" in finding.advice

    async def test_nothing_is_changed(self, database_url: str, pg: Any) -> None:
        query = "SELECT (SELECT count(*) FROM gateway.change_log), (SELECT nonce FROM gateway.control)"
        before = await pg.fetchrow(query)
        await examine_postgres(database_url, timeout_s=5)
        assert await pg.fetchrow(query) == before


class TestRedis:
    async def test_a_server_with_a_relay(self, redis_url: str, redis_prefix: str) -> None:
        client = connect_redis(redis_url)
        try:
            await TopicStore(client, Keys(redis_prefix)).begin("generation", 7)
        finally:
            await client.aclose()
        findings = await examine_redis(redis_url, prefix=redis_prefix, timeout_s=5)
        assert about("Redis relay", findings).found == "generation generation, term 7"
        assert all(finding.grade is Grade.OK for finding in findings)
