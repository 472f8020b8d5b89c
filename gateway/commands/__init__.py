"""One module for each command. What they print is theirs; what stops them is an exception for gateway.cli."""

import argparse
import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

import uvloop

__all__ = ["CommandModule", "run_async", "stop_signal"]

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


def stop_signal() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set; for as long as the running loop lives."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
