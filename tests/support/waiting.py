import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

__all__ = ["eventually"]

T = TypeVar("T")


@overload
async def eventually(
    predicate: Callable[[], Awaitable[T]], timeout_s: float = 5.0, interval_s: float = 0.01
) -> T: ...
@overload
async def eventually(predicate: Callable[[], T], timeout_s: float = 5.0, interval_s: float = 0.01) -> T: ...
async def eventually(
    predicate: Callable[[], object], timeout_s: float = 5.0, interval_s: float = 0.01
) -> object:
    """Wait until the condition is true and return its value.

    An AssertionError of the condition counts as false. At the deadline: AssertionError with the last value.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        last: object
        try:
            async with asyncio.timeout(max(0.1, deadline - time.monotonic())) as limit:
                value = predicate()
                result = await value if inspect.isawaitable(value) else value
        except AssertionError as error:
            last = error
        except TimeoutError:
            if not limit.expired():
                raise
            last = "(still waiting for the condition itself)"
        else:
            if result:
                return result
            last = result
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout_s:g} s; the last value was {last!r}")
        await asyncio.sleep(interval_s)
