import asyncio

import pytest

from gateway.commands import run_until
from listeners.errors import Refused


async def work(error: Exception | None = None) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(fail(error))


async def fail(error: Exception | None) -> None:
    if error is not None:
        raise error


async def test_work_that_is_done() -> None:
    assert await run_until(asyncio.Event(), work())


async def test_work_that_is_stopped() -> None:
    stop = asyncio.Event()
    stop.set()
    assert not await run_until(stop, asyncio.Event().wait())  # type: ignore[arg-type]  # it never returns


async def test_a_refusal_comes_out_of_the_groups_it_was_raised_in() -> None:
    with pytest.raises(Refused, match="wrong password"):
        await run_until(asyncio.Event(), work(Refused("wrong password")))


async def test_a_mistake_of_ours_stays_as_it_is() -> None:
    with pytest.raises(ExceptionGroup):
        await run_until(asyncio.Event(), work(ValueError("a bug")))
