import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from listeners import place_watch
from listeners.errors import Unavailable
from listeners.generation import Identity
from listeners.keeper import ReignOver
from listeners.place_watch import watch_place

HERE = {"system": "7/5", "timeline": "1", "alive": "a", "losses": "0", "sources": "s", "nonce": "n"}
PLACE = Identity(**HERE, redis="").place


class Name:
    """What the database's name leads to: identities in turn, or what is raised on the way to them."""

    def __init__(self, *answers: dict[str, str] | Exception) -> None:
        self.answers = list(answers)

    @asynccontextmanager
    async def connected(self, dsn: str, **_: Any) -> AsyncIterator[Any]:
        assert dsn == "dsn"
        if isinstance(self.answers[0], Unavailable):
            raise self.answers.pop(0)  # type: ignore[misc]  # it was just looked at
        yield self

    async def fetchrow(self, _: str) -> dict[str, str]:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_a_reign_ends_when_the_name_leads_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """What can not be asked, or is no primary yet, says nothing."""
    name = Name(
        HERE,
        Unavailable("no server"),
        asyncpg.FeatureNotSupportedError("cannot access unlogged relations during recovery"),
        HERE | {"losses": "1"},
        HERE | {"timeline": "2"},
        HERE,
    )
    monkeypatch.setattr(place_watch, "connected", name.connected)
    with pytest.raises(ReignOver, match="another server"):
        async with asyncio.timeout(5):
            await watch_place("dsn", PLACE, timeout_s=1, every_s=0)
    assert len(name.answers) == 1
