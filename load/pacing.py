import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

__all__ = ["arrivals", "counted_arrivals", "paced"]


def arrivals(rate_per_s: float, seconds: float, *, rng: random.Random | None = None) -> Iterator[float]:
    """The moments, in s from 0 to `seconds`, of events that know nothing of each other (a Poisson process).

    Evenly spaced ones would keep step with whatever runs periodically: 100 a second with a poll every 10 ms.
    Several such streams together are one of their summed rate.
    """
    rng = rng or random.Random()
    moment = rng.expovariate(rate_per_s)
    while moment < seconds:
        yield moment
        moment += rng.expovariate(rate_per_s)


def counted_arrivals(count: int, seconds: float, *, rng: random.Random | None = None) -> list[float]:
    """The moments of `arrivals`, given that there are so many of them: then they are spread evenly at random.

    For few large events, whose number would otherwise decide the mean rate: that of 200 varies by 7 %.
    """
    rng = rng or random.Random()
    return sorted(rng.uniform(0, seconds) for _ in range(count))


async def paced(
    moments: Iterable[float],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[float]:
    """Gives each moment when it has come, counted from the first step.

    After a delay those that are due come at once: a slow server is not spared the load that it was to get.
    """
    began = clock()
    for moment in moments:
        wait_s = began + moment - clock()
        if wait_s > 0:
            await sleep(wait_s)
        yield moment
