import asyncio
import contextlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from listeners.embedded.directories import make_directory
from listeners.embedded.errors import EmbeddedError
from listeners.embedded.lock import DirectoryLock
from listeners.embedded.ports import free_port
from listeners.embedded.process import Child, Program, wait_until

__all__ = ["EmbeddedServer", "PortTakenError"]

_PORTS_TO_TRY = 5
_LOCK_WAIT_S = 15.0


class PortTakenError(EmbeddedError):
    """Somebody else listens on the port."""


class EmbeddedServer(ABC):
    """A server of ours on 127.0.0.1, alive between `start` and `stop`. Belongs to no event loop.

    Its guard stops it when this process ends, however it ends. `kill`, `restart`, `pause` and `resume` are
    for tests of faults: port and data directory stay, the pid does not. The data directory holds the server's
    own files, `server.log` and `lock`.
    """

    stop_timeout_s = 20.0

    def __init__(self, data_dir: Path, *, port: int, timeout_s: float) -> None:
        self.data_dir = data_dir.resolve()
        self.port = port
        self.log_path = self.data_dir / "server.log"
        self._timeout_s = timeout_s
        self._lock = DirectoryLock(self.data_dir)
        self._child: Child | None = None

    @property
    @abstractmethod
    def url(self) -> str: ...

    @property
    def pid(self) -> int:
        """Of the server's main process; of its last one when it does not run. 0 before the first start."""
        return self._child.pid if self._child is not None else 0

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    async def start(self) -> Self:
        """Raises EmbeddedError, with nothing left running."""
        await asyncio.to_thread(make_directory, self.data_dir)
        if not await wait_until(self._lock.acquire_nowait, _LOCK_WAIT_S, interval_s=0.05):
            raise EmbeddedError(f"{self.data_dir} is locked by a server that does not stop: stop it by hand")
        try:
            self.log_path.unlink(missing_ok=True)
            await self._prepare()
            await self._start_on_a_port()
        except BaseException:
            await self.stop()
            raise
        return self

    async def stop(self) -> None:
        """Stop gently, after a timeout by SIGKILL, and give the data directory back. Twice is harmless."""
        try:
            if self._child is not None:
                await self._child.stop(self.stop_timeout_s)
        finally:
            self._lock.release()

    async def kill(self) -> None:
        """SIGKILL all its processes at once, as a crash of the machine would."""
        if self._child is not None:
            await self._child.kill()

    async def restart(self) -> None:
        """Stop it if it runs, and start it again on the same port and data directory."""
        if self._child is None or self._lock.fd < 0:
            raise EmbeddedError(f"the server on {self.data_dir} was stopped for good: start a new one")
        await self._child.stop(self.stop_timeout_s)
        await self._run()

    def pause(self) -> None:
        """SIGSTOP all its processes: connections stay open and nothing answers."""
        if self._child is not None:
            self._child.freeze()

    def resume(self) -> None:
        if self._child is not None:
            self._child.thaw()

    @abstractmethod
    async def _prepare(self) -> None:
        """What is needed once, before the first start, with the lock held."""

    @abstractmethod
    def _program(self) -> Program: ...

    @abstractmethod
    async def _answers(self) -> bool:
        """Whether the server is ready for clients. It is a try; False means to try again."""

    @abstractmethod
    def _why_it_ended(self, log: str) -> EmbeddedError: ...

    async def _start_on_a_port(self) -> None:
        if self.port:
            await self._run()
            return
        for _ in range(_PORTS_TO_TRY - 1):
            self.port = free_port()
            with contextlib.suppress(PortTakenError):
                await self._run()
                return
        self.port = free_port()
        await self._run()

    async def _run(self) -> None:
        child = await Child.start(self._program(), self._lock)
        self._child = child
        try:
            async with asyncio.timeout(self._timeout_s):
                ready = await self._until_it_answers(child)
        except TimeoutError:
            await child.kill()
            raise EmbeddedError(
                f"{self.data_dir}: not ready within {self._timeout_s:g} s, see {self.log_path}"
            ) from None
        except BaseException:
            await child.kill()
            raise
        if not ready:
            await child.kill()  # it is gone; its guard is hung up on
            raise self._why_it_ended(self._log())

    async def _until_it_answers(self, child: Child) -> bool:
        while not await self._answers():
            if not child.running:
                return False
            await asyncio.sleep(0.01)
        return True

    def _log(self) -> str:
        return self.log_path.read_text(errors="replace")
