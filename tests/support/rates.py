"""What replicas have used of limits, as a test says it."""

import asyncio

__all__ = ["SharedCounts"]


class SharedCounts:
    """Answers what it is told to, when it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, float, bool]] = []
        self.futures: list[asyncio.Future[float]] = []
        self.answer: float | BaseException | None = 0.0  # None: it waits

    def take_nowait(
        self, kind: str, who: str, *, cost: float, per_s: float, burst: float, owed: bool = False
    ) -> asyncio.Future[float]:
        self.asked.append((kind, who, cost, owed))
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self.futures.append(future)
        if isinstance(self.answer, BaseException):
            future.set_exception(self.answer)
        elif self.answer is not None:
            future.set_result(self.answer)
        return future
