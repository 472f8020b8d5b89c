import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ["eventually"]

T = TypeVar("T")


async def eventually(
    predicate: Callable[[], T | Awaitable[T]], timeout_s: float = 5.0, interval_s: float = 0.01
) -> T:
    """Wait until the condition is true and return its value.

    An AssertionError of the condition counts as false. At the deadline: AssertionError with the last value.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        last: object
        try:
            async with asyncio.timeout_at(
                asyncio.get_running_loop().time() + max(0.1, deadline - time.monotonic())
            ):
                value = predicate()
                result = await value if inspect.isawaitable(value) else value
        except AssertionError as error:
            last = error
        except TimeoutError:
            last = "(still waiting for the condition itself)"
        else:
            if result:
                return result
            last = result
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout_s:g} s; the last value was {last!r}")
        await asyncio.sleep(interval_s)
