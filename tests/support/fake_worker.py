"""Stands in for a worker of `serve --workers N`: an ops socket, and an echo on the inherited one.

`python -m tests.support.fake_worker MODE --worker=LINK`; MODE is ok, crash (at once), stubborn (ignores
SIGTERM) or unready.
"""

import os
import select
import signal
import socket
import sys

__all__: list[str] = []


def main() -> None:
    mode, link = sys.argv[1], sys.argv[2].removeprefix("--worker=")
    number, clients_fd, alive_fd, path = link.split(",", 3)
    if mode == "crash":
        sys.exit(3)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "stubborn" else signal.SIG_DFL)
    ops = socket.socket(socket.AF_UNIX)
    ops.bind(path)
    ops.listen()
    clients = socket.socket(fileno=int(clients_fd))
    clients.listen()
    servers = {ops.fileno(): ops, clients.fileno(): clients}
    while True:
        ready, _, _ = select.select([*servers, int(alive_fd)], [], [])
        if int(alive_fd) in ready:
            os._exit(7)  # the parent is gone
        for server in (servers[fd] for fd in ready):
            connection, _ = server.accept()
            with connection:
                connection.settimeout(2)
                request = connection.recv(1000)
                connection.sendall(
                    answer(mode, number, request) if server is ops else b"worker %d" % int(number)
                )


def answer(mode: str, number: str, request: bytes) -> bytes:
    if b"/metrics" in request:
        return f'HTTP/1.0 200 OK\r\n\r\n# TYPE fake gauge\nfake{{mode="{mode}"}} {number}\n'.encode()
    if mode == "unready":
        return b'HTTP/1.0 503 No\r\n\r\n{"ready":false,"reasons":["Redis is away"]}'
    return b'HTTP/1.0 200 OK\r\n\r\n{"ready":true,"reasons":[]}'


if __name__ == "__main__":
    main()
