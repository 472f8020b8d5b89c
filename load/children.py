"""Processes that the benchmark starts and stops itself."""

import asyncio
import os
import shutil
import signal
import socket
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar
from urllib.error import URLError
from urllib.request import urlopen

from load.waiting import until

__all__ = ["StackFailed", "accepts", "answers", "free_ports", "last_words", "running", "started"]

START_TIMEOUT_S: Final = 120.0
STOP_TIMEOUT_S: Final = 30.0

# A benchmark that is killed can stop nothing any more, so the kernel tells its children (prctl(2),
# PR_SET_PDEATHSIG). setpriv is part of util-linux; it becomes the command, under the same process id.
_SETPRIV: Final = shutil.which("setpriv")
_ENDING_WITH_US: Final = (_SETPRIV, "--pdeathsig", "TERM", "--") if _SETPRIV else ()

T = TypeVar("T")


class StackFailed(RuntimeError):
    """A process did not start or has ended; the message ends with what it said."""


@asynccontextmanager
async def running(
    command: Sequence[str | Path],
    log: Path,
    variables: Mapping[str, str] | None = None,
    *,
    stdin: int = asyncio.subprocess.DEVNULL,
) -> AsyncIterator[Process]:
    """The command in a process that ends with the block, or with us. `variables` are added to ours."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *_ENDING_WITH_US,
            *command,
            env={**inherited, **(variables or {})},
            stdin=stdin,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is for us, who stop everything in order
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()


async def started(process: Process, log: Path, condition: Callable[[], T | None]) -> T:
    """The condition's first true value. Raises StackFailed when the process ends or time is up."""

    def check() -> T | None:
        if process.returncode is not None:
            raise StackFailed(last_words(log))
        return condition()

    try:
        return await until(check, timeout_s=START_TIMEOUT_S, interval_s=0.05)
    except TimeoutError:
        raise StackFailed(last_words(log)) from None


def last_words(log: Path) -> str:
    said = log.read_text(errors="replace").strip().splitlines()[-5:]
    return "\n".join((f"{log.stem} did not start or has ended:", *said))


def answers(url: str) -> bool:
    with suppress(URLError, OSError), urlopen(url, timeout=2) as response:
        return bool(response.status == 200)
    return False


def accepts(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
        return True
    return False


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports
