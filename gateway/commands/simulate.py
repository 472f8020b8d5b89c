import argparse
import asyncio
import random as _random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Final, TypeVar

import structlog

from gateway.commands import run_async, stop_signal
from gateway.config import load_settings
from gateway.errors import CommandFailed
from gateway.sample.groups import one_error
from gateway.sample.pacing import Pacer
from gateway.sample.planning import Planner
from gateway.sample.selling import Tally, read_shelves, sell
from listeners.backoff import Backoff
from listeners.errors import Unavailable
from listeners.postgres import Connection, classified, connected

__all__ = ["SalesFeed", "configure", "positive", "run"]

N = TypeVar("N", int, float)

log = structlog.get_logger(__name__)

RATE: Final = 20.0
WRITERS: Final = 4
BACKOFF: Final = (0.1, 3.0)  # s


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rate", metavar="R", type=positive(float), default=RATE, help=f"changed rows a second ({RATE:g})"
    )
    parser.add_argument(
        "--seconds", metavar="S", type=positive(float), help="how long; until it is stopped unless given"
    )
    parser.add_argument(
        "--writers",
        metavar="N",
        type=positive(int),
        default=WRITERS,
        help=f"connections that write at the same time ({WRITERS})",
    )


def run(options: argparse.Namespace) -> int:
    url = load_settings().require_database_url()
    return run_async(_simulate(url, options.rate, seconds=options.seconds, writers=options.writers))


def positive(kind: Callable[[str], N]) -> Callable[[str], N]:
    """For argparse: a number above 0."""

    def parse(text: str) -> N:
        with suppress(ValueError):
            value = kind(text)
            if 0 < value < float("inf"):
                return value
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no {'whole ' * (kind is int)}number above 0")

    return parse


async def _simulate(url: str, rate: float, *, seconds: float | None, writers: int) -> int:
    stop = stop_signal()
    feed = await SalesFeed.prepare(url, rate, writers=writers)
    until = "until stopped" if seconds is None else f"for {seconds:g} s"
    print(f"selling from {feed.products:,} products at {rate:g} changes/s {until}", flush=True)
    if seconds is not None:
        asyncio.get_running_loop().call_later(seconds, stop.set)
    await feed.run(stop)
    print(feed.tally.summary(), flush=True)
    return 0


class SalesFeed:
    """The sample shop at work: several writers that sell, restock and change prices at a steady rate."""

    def __init__(
        self, url: str, planner: Planner, rate: float, *, products: int, writers: int = WRITERS
    ) -> None:
        self.products = products
        self.tally = Tally()
        self._url = url
        self._planner = planner
        self._pacer = Pacer(rate)
        self._writers = writers

    @classmethod
    async def prepare(
        cls,
        url: str,
        rate: float,
        *,
        writers: int = WRITERS,
        random: _random.Random | None = None,
    ) -> "SalesFeed":
        """`rate` is in changed rows per second.

        Raises Unavailable, Refused, and CommandFailed in an empty shop.
        """
        async with _connected(url) as connection:
            with classified(url):
                shelves = await read_shelves(connection)
        if not shelves:
            raise CommandFailed("the shop has no stock to sell: run `inventory-gateway seed`")
        return cls(url, Planner(shelves, random=random), rate, products=len(shelves), writers=writers)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set. A Postgres that goes away is waited for; raises Refused when it says no."""
        with one_error():
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self._writers):
                    tasks.create_task(self._write(stop))

    async def _write(self, stop: asyncio.Event) -> None:
        backoff = Backoff(*BACKOFF)
        while not stop.is_set():
            try:
                async with _connected(self._url) as connection:
                    backoff.reset()
                    with classified(self._url):
                        await sell(connection, self._planner, self._pacer, self.tally, stop)
            except Unavailable as error:
                self.tally.reconnects += 1
                delay_s = backoff.next()
                log.warning("the sales pause", reason=str(error), next_try_s=round(delay_s, 2))
                await _wait(stop, delay_s)


def _connected(url: str) -> AbstractAsyncContextManager[Connection]:
    return connected(url, purpose="simulate")


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
