import asyncio
import contextlib
import re
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from listeners.embedded.binaries import valkey_server
from listeners.embedded.errors import EmbeddedError
from listeners.embedded.process import Program
from listeners.embedded.server import EmbeddedServer, PortTakenError

__all__ = ["ValkeyServer", "embedded_valkey"]


class ValkeyServer(EmbeddedServer):
    """Valkey on 127.0.0.1 for development and tests. It keeps nothing on disk unless `args` say so."""

    stop_timeout_s = 10.0

    def __init__(
        self, data_dir: Path, *, port: int = 0, args: Sequence[str] = (), timeout_s: float = 20.0
    ) -> None:
        super().__init__(data_dir, port=port, timeout_s=timeout_s)
        self._args = tuple(args)
        self._binary = Path()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def _prepare(self) -> None:
        self._binary = await asyncio.to_thread(valkey_server)

    def _program(self) -> Program:
        wanted = {"--save": "", "--appendonly": "no"}
        defaults = [
            part for name, value in wanted.items() if name not in self._args for part in (name, value)
        ]
        # Ours come last, where they win: nothing but loopback, and in the foreground.
        fixed = ("--port", str(self.port), "--bind", "127.0.0.1", "--protected-mode", "yes")
        quiet = ("--daemonize", "no", "--dir", str(self.data_dir), "--logfile", "")
        return Program(
            argv=(str(self._binary), *defaults, *self._args, *fixed, *quiet),
            log=self.log_path,
            stop_signal=signal.SIGTERM,
        )

    async def _answers(self) -> bool:
        """It is ours when INFO names our pid; another server on the port must not be taken for it."""
        try:
            async with asyncio.timeout(0.5):
                reply = await _ask(self.port, b"INFO\r\n")
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return False
        ours = f"\r\nprocess_id:{self.pid}\r\n".encode() in reply and b"\r\nloading:0\r\n" in reply
        return ours or reply.startswith(b"-NOAUTH")

    def _why_it_ended(self, log: str) -> EmbeddedError:
        if re.search("address already in use", log, re.IGNORECASE):
            return PortTakenError(f"port {self.port} is in use: stop what listens there or use another port")
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        reason = lines[-1] if lines else "no reason given"
        return EmbeddedError(f"Valkey did not start on {self.data_dir}: {reason}; see {self.log_path}")


async def _ask(port: int, command: bytes) -> bytes:
    """One inline command and its reply, a bulk string or an error (Redis serialization protocol)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(command)
        head = await reader.readuntil(b"\r\n")
        if not head.startswith(b"$"):
            return head
        return b"\r\n" + await reader.readexactly(int(head[1:]))
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def embedded_valkey(
    data_dir: Path, *, port: int = 0, args: Sequence[str] = (), timeout_s: float = 20.0
) -> AsyncIterator[ValkeyServer]:
    """Valkey with its files in `data_dir`; port 0 takes a free one. `args` as of the command line.

    Raises EmbeddedError.
    """
    server = ValkeyServer(data_dir, port=port, args=args, timeout_s=timeout_s)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
