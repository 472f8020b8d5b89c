import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Generic, TypeVar

__all__ = ["Together"]

# Questions of one round trip, and round trips at a time: while one is on its way the next one fills.
AT_ONCE: Final = 64
ROUND_TRIPS: Final = 2

Q = TypeVar("Q")


class Together(Generic[Q]):
    """Questions that are asked at about the same moment go to the server in one round trip.

    `ask` answers a list of them, in order. What it raises is raised to everybody who waits: the next round
    trip would take the same way, and cost a timeout as well. Whoever is cancelled leaves the others alone.
    """

    def __init__(self, ask: Callable[[Sequence[Q]], Awaitable[Sequence[Any]]]) -> None:
        self._ask = ask
        self._waiting: deque[tuple[Q, asyncio.Future[Any]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._asking = 0  # tasks that will look once more whether somebody waits

    async def answer(self, question: Q) -> Any:
        return await self.answer_nowait(question)

    def answer_nowait(self, question: Q) -> asyncio.Future[Any]:
        """The future answer; cancelled before its round trip, the question is not asked."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if self._asking < ROUND_TRIPS:
            # It begins in the next turn of the loop: whoever asks in this one comes along.
            self._asking += 1
            task = asyncio.create_task(self._ask_all(), name="round trips")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return future

    async def _ask_all(self) -> None:
        """Until nobody waits. It counts until it has found that, and not until its task is known to have
        ended: who asks in between would wait for a task that looks no more."""
        try:
            while batch := self._take():
                await self._ask_some(batch)
        finally:
            self._asking -= 1

    async def _ask_some(self, batch: list[tuple[Q, asyncio.Future[Any]]]) -> None:
        try:
            answers = await self._ask([question for question, _ in batch])
        except Exception as error:  # noqa: BLE001 - raised to everybody who has asked
            batch += self._waiting
            self._waiting.clear()
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        except BaseException:  # the loop is being closed
            for _, future in batch:
                future.cancel()
            raise
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    def _take(self) -> list[tuple[Q, asyncio.Future[Any]]]:
        batch: list[tuple[Q, asyncio.Future[Any]]] = []
        while self._waiting and len(batch) < AT_ONCE:
            question, future = self._waiting.popleft()
            if not future.done():
                batch.append((question, future))
        return batch
