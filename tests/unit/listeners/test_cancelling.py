import asyncio
from collections.abc import Awaitable, Callable

import pytest

from listeners.cancelling import apart, cancellable


class TestCancellable:
    """A task that swallows its cancellation, as asyncio.wait_for may before Python 3.12."""

    @staticmethod
    async def cancelled(error: Exception | None = None) -> bool:
        async def deaf() -> None:
            task = asyncio.current_task()
            assert task is not None
            with cancellable():
                task.cancel()
                try:
                    await asyncio.sleep(0)
                except asyncio.CancelledError:
                    if error is not None:
                        raise error from None

        task = asyncio.create_task(deaf())
        await asyncio.wait([task])
        return task.cancelled()

    async def test_it_is_cancelled_nevertheless(self) -> None:
        assert await self.cancelled()

    async def test_also_when_an_error_came_of_it(self) -> None:
        assert await self.cancelled(TimeoutError())

    async def test_an_error_alone_stays_what_it_is(self) -> None:
        with pytest.raises(ZeroDivisionError), cancellable():
            raise ZeroDivisionError

    async def test_what_is_done_while_being_cancelled_is_done(self) -> None:
        done = []

        async def tidy() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                with cancellable():
                    await asyncio.sleep(0)
                done.append(True)

        task = asyncio.create_task(tidy())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert done == [True]
        assert task.cancelled()


class TestApart:
    async def test_a_result(self) -> None:
        async def work() -> int:
            return 7

        assert await apart(work()) == 7

    async def test_an_error(self) -> None:
        async def work() -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await apart(work())

    @pytest.mark.parametrize("turns", range(8))
    async def test_a_cancellation_wins_over_errors_of_the_work(self, turns: int) -> None:
        async def failing() -> None:
            for _ in range(3):
                await asyncio.sleep(0)
            raise ZeroDivisionError

        async def work() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(failing())

        async def for_ever() -> None:
            while True:
                try:
                    await apart(work())
                except ExceptionGroup:
                    await asyncio.sleep(0)

        await assert_ends(for_ever, turns)

    async def test_the_work_ends_first(self) -> None:
        steps = []

        async def work() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0)
                steps.append("work")

        task = asyncio.create_task(apart(work()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert steps == ["work"]
        assert task.cancelled()


async def assert_ends(work: Callable[[], Awaitable[None]], turns: int) -> None:
    task = asyncio.ensure_future(work())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=1.0)
    assert task.cancelled()
