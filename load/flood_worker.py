"""The other side of load.scenarios.flood: a process that holds silent connections, and one that floods.

Commands come as JSON lines on standard input, each is answered by one line on standard output.
"""

import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["Attacker"]

EVENTS_AT_ONCE: Final = 1024
TICK_S: Final = 0.002
# What may be under way at a time: a flood that is not answered comes to a stop there.
MOST_UNDER_WAY: Final = 2000
# Silent connections that were closed are opened again at this rate: 10,000, each of which is given up after
# 10 s, stay that many.
REOPENED_PER_S: Final = 1000.0
# The first time they come faster.
OPENED_A_TICK: Final = 20
IP_BIND_ADDRESS_NO_PORT: Final = 24  # ip(7)
# Ends connections without TIME_WAIT (socket(7), SO_LINGER): the ports of one address would not last long.
_NO_LINGER: Final = struct.pack("ii", 1, 0)
_ANSWER_BYTES: Final = 512


class Attacker:
    """Counts what becomes of its connections; every method named `do_...` is a command."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._silent: dict[int, socket.socket] = {}
        self._flood: dict[int, socket.socket] = {}
        self._port = 0
        self._sources: Sequence[str] = ()
        self._wanted = 0  # silent connections
        self._opened = 0
        self._reopen_at = 0.0
        self._closed = 0  # silent connections, by the server
        self._request = b""
        self._source = ""
        self._rate_per_s = 0.0
        self._due = 0.0
        self._looked_at = time.monotonic()
        self._sent = 0
        self._outcomes = {"admitted": 0, "refused": 0, "reset": 0}

    # --- commands

    def do_hold(self, plan: Mapping[str, Any]) -> Mapping[str, Any]:
        """Keeps `count` connections open that never say anything; those that are closed are opened again."""
        self._port, self._sources, self._wanted = plan["port"], plan["sources"], plan["count"]
        return {}

    def do_flood(self, plan: Mapping[str, Any]) -> Mapping[str, Any]:
        """`rate_per_s` handshakes from one address, each dropped as soon as it is answered."""
        self._port, self._source = plan["port"], plan["source"]
        self._rate_per_s, self._request = plan["rate_per_s"], plan["request"].encode("latin-1")
        self._looked_at, self._due = time.monotonic(), 0.0
        return {}

    def do_counts(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"held": len(self._silent), "closed": self._closed, "sent": self._sent, **self._outcomes}

    # --- the loop

    def run(self) -> None:
        """Until standard input ends."""
        commands = sys.stdin.fileno()
        os.set_blocking(commands, False)
        self._epoll.register(commands, select.EPOLLIN)
        unread = b""
        while True:
            busy = self._rate_per_s > 0 or len(self._silent) < self._wanted
            for fd, events in self._epoll.poll(TICK_S if busy else 0.1, EVENTS_AT_ONCE):
                if fd != commands:
                    self._on_event(fd, events)
                    continue
                data = os.read(commands, 65536)
                if not data:
                    return
                *lines, unread = (unread + data).split(b"\n")
                for line in lines:
                    command = json.loads(line)
                    sys.stdout.write(json.dumps(getattr(self, f"do_{command['do']}")(command)) + "\n")
                    sys.stdout.flush()
            self._hold_more()
            self._flood_more()

    def _hold_more(self) -> None:
        for _ in range(min(OPENED_A_TICK, self._wanted - len(self._silent))):
            if self._opened >= self._wanted:
                now = time.monotonic()
                if now < self._reopen_at:
                    return
                # After a pause it does not make up for it.
                self._reopen_at = max(self._reopen_at, now - TICK_S) + 1 / REOPENED_PER_S
            self._opened += 1
            opened = self._connect(self._sources[self._opened % len(self._sources)])
            self._silent[opened.fileno()] = opened
            self._epoll.register(opened.fileno(), select.EPOLLIN)

    def _flood_more(self) -> None:
        now = time.monotonic()
        self._due += (now - self._looked_at) * self._rate_per_s
        self._looked_at = now
        while self._due >= 1:
            self._due -= 1
            if len(self._flood) < MOST_UNDER_WAY:
                self._sent += 1
                opened = self._connect(self._source)
                self._flood[opened.fileno()] = opened
                self._epoll.register(opened.fileno(), select.EPOLLOUT)

    def _connect(self, source: str) -> socket.socket:
        opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        opened.bind((source, 0))
        opened.connect_ex(("127.0.0.1", self._port))  # what becomes of it is an event
        return opened

    def _on_event(self, fd: int, events: int) -> None:
        silent = self._silent.get(fd)
        if silent is not None:
            del self._silent[fd]
            self._closed += 1
            silent.close()
        elif (one := self._flood.get(fd)) is not None:
            self._on_answer(one, events)

    def _on_answer(self, one: socket.socket, events: int) -> None:
        try:
            if events & select.EPOLLOUT and not events & select.EPOLLIN:
                one.send(self._request)
                self._epoll.modify(one.fileno(), select.EPOLLIN)
                return
            answer = one.recv(_ANSWER_BYTES)
        except OSError:
            answer = b""
        status = answer[9:12]
        self._outcomes["admitted" if status == b"101" else "refused" if status == b"429" else "reset"] += 1
        del self._flood[one.fileno()]
        one.close()


def main(arguments: Sequence[str]) -> int:
    """`--nice`: only what nobody else wants of this machine, for an attacker has one of its own."""
    if "--nice" in arguments:
        os.nice(19)
    Attacker().run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
