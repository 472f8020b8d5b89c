"""Between a parent of `serve --workers N` and one worker: what is handed over, and how it is asked."""

import asyncio
import socket
from typing import Final, NamedTuple

import orjson

from gateway.app import serve
from gateway.certificate import load_certificate
from gateway.commands import hangup_signal, stop_signal
from gateway.config import Settings

__all__ = ["WorkerAnswer", "WorkerLink", "ask_worker", "run_worker"]

ASK_TIMEOUT_S: Final = 2.0


class WorkerLink(NamedTuple):
    """What a worker gets from its parent, as one argument of its command line."""

    number: int
    clients_fd: int
    alive_fd: int  # readable when the parent is gone
    ops_path: str

    def __str__(self) -> str:
        return f"{self.number},{self.clients_fd},{self.alive_fd},{self.ops_path}"

    @classmethod
    def parse(cls, text: str) -> "WorkerLink":
        number, clients_fd, alive_fd, ops_path = text.split(",", 3)
        return cls(int(number), int(clients_fd), int(alive_fd), ops_path)


async def run_worker(settings: Settings, link: WorkerLink) -> int:
    """Serves until SIGTERM, or until the parent is gone. Returns the exit code."""
    stop = stop_signal()
    # The parent passes SIGHUP on once the ops socket is there; until then the files are still to be read.
    hangup = hangup_signal() if settings.tls_certificate is not None else None
    asyncio.get_running_loop().add_reader(link.alive_fd, stop.set)
    clients = socket.socket(fileno=link.clients_fd)
    ops = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    ops.bind(link.ops_path)
    for inherited in (clients, ops):
        inherited.setblocking(False)
    certificate = None if hangup is None else load_certificate(settings, hangup)
    await serve(settings, clients=clients, ops=ops, stop=stop, certificate=certificate)
    return 0


class WorkerAnswer(NamedTuple):
    """What a worker's ops app said; `status` 0: nothing."""

    status: int
    body: str

    @property
    def ok(self) -> bool:
        return self.status == 200

    @property
    def reasons(self) -> list[str]:
        """Of `/readyz`."""
        if not self.status:
            return ["does not answer"]
        return [str(reason) for reason in orjson.loads(self.body)["reasons"]]


async def ask_worker(path: str, target: str, *, timeout_s: float = ASK_TIMEOUT_S) -> WorkerAnswer:
    """GET `target` from the ops app that listens on the Unix socket `path`."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                # HTTP/1.0: the answer ends with the connection.
                writer.write(f"GET {target} HTTP/1.0\r\nHost: worker\r\n\r\n".encode())
                answer = await reader.read(-1)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return WorkerAnswer(0, "")
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head[:16].split(b" ")
    return WorkerAnswer(int(status[1]) if len(status) > 1 else 0, body.decode())
