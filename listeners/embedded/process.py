import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from listeners.embedded import guard
from listeners.embedded.errors import EmbeddedError
from listeners.embedded.lock import DirectoryLock

__all__ = ["Child", "Program", "wait_until"]

_START_S = 10.0


async def wait_until(condition: Callable[[], bool], timeout_s: float, *, interval_s: float = 0.01) -> bool:
    """Whether the condition held within the time. Tied to no loop's child watcher, so any loop may ask."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(interval_s)
    return True


@dataclass(frozen=True)
class Program:
    """What a child runs and as whom."""

    argv: tuple[str, ...]
    log: Path
    stop_signal: signal.Signals
    user: int | None = None
    group: int | None = None


class Child:
    """A server under its guard. Belongs to no event loop."""

    def __init__(self, program: Program, watcher: subprocess.Popen[bytes], pid: int) -> None:
        self.program = program
        self.pid = pid
        self._watcher = watcher

    @classmethod
    async def start(cls, program: Program, lock: DirectoryLock, *, grace_s: float = 5.0) -> "Child":
        """Raises EmbeddedError when the program can not be started at all."""
        watcher = _start_guard(program, lock.fd, grace_s)
        try:
            async with asyncio.timeout(_START_S):
                report = await asyncio.to_thread(_first_line, watcher)
        except TimeoutError:
            _abandon(watcher)
            raise EmbeddedError(f"{program.argv[0]} was not started within {_START_S:g} s") from None
        except BaseException:
            _abandon(watcher)
            raise
        word, _, rest = report.partition(" ")
        if word != "started":
            _abandon(watcher)
            raise EmbeddedError(f"{program.argv[0]} can not be run: {rest or 'its guard ended'}")
        return cls(program, watcher, int(rest))

    @property
    def running(self) -> bool:
        return self._watcher.poll() is None

    @property
    def returncode(self) -> int | None:
        """None while it runs; 128 + n when signal n ended it."""
        return self._watcher.poll()

    def freeze(self) -> None:
        if self.running:
            guard.freeze_family(self.pid)

    def thaw(self) -> None:
        if self.running:
            guard.signal_family(self.pid, signal.SIGCONT)

    async def wait_ended(self, timeout_s: float) -> bool:
        return await wait_until(lambda: not self.running, timeout_s)

    async def stop(self, timeout_s: float) -> None:
        """Ask it to end; after the timeout, SIGKILL."""
        try:
            if self.running:
                self.thaw()  # a frozen server would not hear us
                guard.send(self.pid, self.program.stop_signal)
            if not await self.wait_ended(timeout_s) or self._orphaned():
                await self.kill()
        finally:
            self._hang_up()

    async def kill(self, timeout_s: float = 10.0) -> None:
        """SIGKILL the server with all its descendants, and wait until they are gone."""
        pids = guard.kill_family(self.pid) if self.running or self._orphaned() else []
        await self.wait_ended(timeout_s)
        self._hang_up()
        await wait_until(lambda: not any(guard.process_name(pid) for pid in pids), timeout_s)

    def _orphaned(self) -> bool:
        """Whether the guard itself was killed by a signal and its server goes on."""
        code = self._watcher.poll()
        return (
            code is not None and code < 0 and guard.process_name(self.pid) == Path(self.program.argv[0]).name
        )

    def _hang_up(self) -> None:
        for pipe in (self._watcher.stdin, self._watcher.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()


def _start_guard(program: Program, lock_fd: int, grace_s: float) -> subprocess.Popen[bytes]:
    order: guard.Order = {
        "argv": list(program.argv),
        # Nothing of ours: PG* and LD_* variables of a user's shell would reach the server.
        "env": {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
        "cwd": "/",
        "log": str(program.log),
        "user": program.user,
        "group": program.group,
        "stop_signal": int(program.stop_signal),
        "grace_s": grace_s,
        "parent": os.getpid(),
    }
    watcher = subprocess.Popen(  # noqa: S603  (our own file)
        [sys.executable, "-I", "-S", guard.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        pass_fds=[lock_fd],
        start_new_session=True,
    )
    assert watcher.stdin is not None  # noqa: S101  (for the type checker: PIPE was asked for)
    watcher.stdin.write(json.dumps(order).encode() + b"\n")
    watcher.stdin.flush()
    return watcher


def _first_line(watcher: subprocess.Popen[bytes]) -> str:
    assert watcher.stdout is not None  # noqa: S101  (for the type checker: PIPE was asked for)
    return watcher.stdout.readline().decode(errors="replace").strip()


def _abandon(watcher: subprocess.Popen[bytes]) -> None:
    """Hang up on a guard whose server we do not know; it stops whatever it has started."""
    if watcher.stdin is not None:
        watcher.stdin.close()
    try:
        watcher.wait(_START_S)
    except subprocess.TimeoutExpired:
        watcher.kill()
        watcher.wait()
    if watcher.stdout is not None:
        watcher.stdout.close()
