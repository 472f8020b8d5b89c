"""One module for each command. What they print is theirs; what stops them is an exception for gateway.cli."""

import argparse
import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

import uvloop

from gateway.errors import GatewayError
from listeners.errors import ListenersError

__all__ = ["CommandModule", "hangup_signal", "run_async", "run_until", "stop_signal"]

T = TypeVar("T")


class CommandModule(Protocol):
    """What gateway.cli expects of `gateway.commands.<name>`."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Adds the command's options. Those that stand for a setting have no default and no type."""

    def run(self, options: argparse.Namespace) -> int:
        """Returns the exit code, or raises GatewayError or ListenersError, told in one line."""


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Runs a command's coroutine on the loop the gateway runs on."""
    return uvloop.run(work)


async def run_until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Runs `work` until it is done (True) or the event is set (False), when it is cancelled.

    Raises the GatewayError or ListenersError that `work` has raised, and not a group of one.
    """
    failures: list[Exception] = []
    done = False
    try:
        async with asyncio.TaskGroup() as group:
            working = group.create_task(work)
            waiting = group.create_task(stop.wait())
            await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
            done = working.done()
            working.cancel()
            waiting.cancel()
    except* (GatewayError, ListenersError) as errors:
        failures.append(_first(errors))
    if failures:
        raise failures[0]
    return done


def _first(error: Exception) -> Exception:
    """The first leaf of what may be groups within groups."""
    return _first(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error


def stop_signal() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set; for as long as the running loop lives."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def hangup_signal() -> asyncio.Event:
    """An event that SIGHUP sets: certificates are to be read again. Until then it ends a process."""
    hangup = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hangup.set)
    return hangup
