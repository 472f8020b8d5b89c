"""PROTOCOL.md section 4: `serve` and `relay` wait for their servers, and stop where one refuses."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway import startup
from gateway.config import Settings
from gateway.errors import SettingsError
from gateway.startup import StartRefused, Startup
from listeners.errors import MigrationError, Refused, Unavailable

Answers = dict[str, list[Exception | None]]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """What each check raises, try by try; None or nothing left: it serves."""
    scripted: Answers = {"database": [], "listener": [], "redis": []}

    def check(name: str) -> Callable[..., Any]:
        async def run(_: str, *, timeout_s: float, prefix: str = "") -> None:
            assert timeout_s == 2.0
            error = scripted[name].pop(0) if scripted[name] else None
            if error is not None:
                raise error

        return run

    for name in scripted:
        monkeypatch.setattr(startup, f"check_{name}", check(name))
    return scripted


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "LISTENER_DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(f"GATEWAY_{name}", raising=False)


def settings(**more: str) -> Settings:
    given: dict[str, Any] = {"database_url": "postgresql://h/d", "redis_url": "redis://h", **more}
    return Settings(**given)


class Sleeps(list[float]):
    async def __call__(self, delay_s: float) -> None:
        self.append(delay_s)


class TestWaiting:
    async def test_servers_that_serve_are_not_waited_for(self, answers: Answers) -> None:
        with capture_logs() as lines:
            await Startup(settings()).wait()
        assert lines == []

    async def test_one_line_a_try_that_names_the_setting(self, answers: Answers) -> None:
        answers["redis"] = [Unavailable("Redis can not be reached: refused")] * 3
        sleeps = Sleeps()
        with capture_logs() as lines:
            await Startup(settings(), sleep=sleeps).wait()
        assert [(line["event"], line["setting"], line["attempt"]) for line in lines] == [
            ("waiting for a server", "GATEWAY_REDIS_URL", attempt) for attempt in (1, 2, 3)
        ]
        assert lines[0]["reason"] == "Redis can not be reached: refused"
        assert len(sleeps) == 3
        assert all(0 < delay_s <= 5 for delay_s in sleeps)

    async def test_readiness_says_what_is_waited_for(self, answers: Answers) -> None:
        answers["database"] = [Unavailable("no route")] * 2
        seen: list[list[str]] = []

        async def look(_: float) -> None:
            await asyncio.sleep(0)  # the other server's turn
            seen.append(list(waiting.not_ready()))

        waiting = Startup(settings(), sleep=look)
        assert waiting.not_ready() == [
            "GATEWAY_DATABASE_URL: not reached yet",
            "GATEWAY_REDIS_URL: not reached yet",
        ]
        await waiting.wait()
        assert seen[-1] == ["GATEWAY_DATABASE_URL: no route"]
        assert waiting.not_ready() == ["starting"]

    async def test_a_listener_of_its_own_is_waited_for_too(self, answers: Answers) -> None:
        answers["listener"] = [Unavailable("is a standby")]
        with capture_logs() as lines:
            await Startup(settings(listener_database_url="postgresql://direct/d"), sleep=Sleeps()).wait()
        assert [line["setting"] for line in lines] == ["GATEWAY_LISTENER_DATABASE_URL"]


class TestRefusals:
    @pytest.mark.parametrize(
        "error",
        [
            Refused("wrong password"),
            MigrationError("migrations are pending: run `inventory-gateway migrate`"),
        ],
    )
    async def test_a_server_that_refuses_ends_the_start(self, answers: Answers, error: Exception) -> None:
        answers["database"] = [Unavailable("not yet"), error]
        answers["redis"] = [Unavailable("not yet")] * 1000
        with pytest.raises(StartRefused, match=f"^GATEWAY_DATABASE_URL: {error}$"):
            await Startup(settings(), sleep=_turn).wait()

    async def test_a_mistake_of_ours_is_not_taken_for_a_refusal(self, answers: Answers) -> None:
        answers["database"] = [KeyError("mistake")]
        with pytest.raises(ExceptionGroup) as caught:
            await Startup(settings()).wait()
        assert isinstance(caught.value.exceptions[0], KeyError)

    def test_servers_that_are_not_set(self) -> None:
        with pytest.raises(SettingsError, match="GATEWAY_REDIS_URL is not set"):
            Startup(Settings(database_url="postgresql://h/d"))


async def _turn(_: float) -> None:
    await asyncio.sleep(0)
