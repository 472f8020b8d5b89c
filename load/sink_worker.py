"""One process of load.sink: raw sockets and epoll, nothing but counting. Run by it, not by people.

Commands come as JSON lines on standard input, each is answered by one line on standard output. A frame
costs a few microseconds here: one `recv`, a look at its header and at one byte of its payload.
"""

import errno
import json
import os
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from load.frames import BINARY, CLOSE, PING, PONG, TEXT, client_frame

__all__ = ["KIND_AT", "Sink"]

# A message of the protocol begins with {"type":" and the next letter tells the frequent types apart.
KIND_AT: Final = len(b'{"type":"')
BUFFER_BYTES: Final = 256 * 1024
EVENTS_AT_ONCE: Final = 1024
# Linux' ip(7): the port is chosen at connect(), for the whole address pair, instead of at bind().
IP_BIND_ADDRESS_NO_PORT: Final = 24
READABLE: Final = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR

_DATA: Final = (TEXT, BINARY)
_LONG: Final = 126


class Peer:
    """One connection. `head` is what the server has said of its handshake, None once that is over; `rest` the
    beginning of a frame's header, `missing` what is still to come of a frame that was counted."""

    __slots__ = ("began_at", "head", "missing", "rest", "say", "socket")

    def __init__(self, opened: socket.socket, say: bytes, began_at: float) -> None:
        self.socket = opened
        self.head: bytes | None = b""
        self.missing = 0
        self.rest = b""
        self.say = say
        self.began_at = began_at


class Sink:
    """Counts; every method named `do_...` is a command."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._peers: dict[int, Peer] = {}
        self._kinds = [0] * 256
        self._frames = self._bytes = self._lost = self._failed = 0
        self._open = 0
        self._last_at = 0.0
        self._delays: list[float] = []  # from connect() to the end of the handshake, in s
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._plan: deque[tuple[str, bytes, bytes]] = deque()
        self._port, self._at_once, self._deaf = 0, 0, False
        self._connecting = 0

    # --- commands

    def do_connect(self, plan: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begins; `counts` tells how far it is. A visit is [source address, request, frames to send then]."""
        self._port, self._at_once, self._deaf = plan["port"], plan["at_once"], plan["deaf"]
        for source, request, say in plan["visits"]:
            self._plan.append((source, request.encode("latin-1"), say.encode("latin-1")))
        self._begin_more()
        return {}

    def do_counts(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        times = os.times()
        delays, self._delays = self._delays, []
        return {
            "frames": self._frames,
            "bytes": self._bytes,
            "kinds": {chr(byte): count for byte, count in enumerate(self._kinds) if count},
            "open": self._open,
            "waiting": len(self._plan) + self._connecting,
            "lost": self._lost,
            "failed": self._failed,
            "last_at": self._last_at,
            "delays": delays,
            "cpu_s": times.user + times.system,
        }

    def do_say(self, plan: Mapping[str, Any]) -> Mapping[str, Any]:
        frames = plan["say"].encode("latin-1")
        for peer in list(self._peers.values()):
            if peer.head is None:
                self._send(peer, frames)
        return {}

    def do_drop(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ends all connections, as a cut link does."""
        self._plan.clear()
        for peer in list(self._peers.values()):
            self._forget(peer)
        self._lost = self._failed = 0
        return {}

    # --- the loop

    def run(self) -> None:
        """Until standard input ends."""
        commands = sys.stdin.fileno()
        os.set_blocking(commands, False)
        self._epoll.register(commands, select.EPOLLIN)
        unread = b""
        while True:
            for fd, events in self._epoll.poll(maxevents=EVENTS_AT_ONCE):
                if fd != commands:
                    self._on_event(fd, events)
                    continue
                data = os.read(commands, BUFFER_BYTES)
                if not data:
                    return
                *lines, unread = (unread + data).split(b"\n")
                for line in lines:
                    self._obey(json.loads(line))

    def _obey(self, command: Mapping[str, Any]) -> None:
        do: Callable[[Mapping[str, Any]], Mapping[str, Any]] = getattr(self, f"do_{command['do']}")
        sys.stdout.write(json.dumps(do(command)) + "\n")
        sys.stdout.flush()

    def _on_event(self, fd: int, events: int) -> None:
        peer = self._peers.get(fd)
        if peer is None:
            return  # dropped by a command of the same round
        if events & select.EPOLLOUT:
            self._connected(peer)
            return
        try:
            size = peer.socket.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            self._ended(peer)
        elif peer.head is None:
            self._count(peer, size)
        else:
            self._shake_hands(peer, bytes(self._view[:size]))

    # --- connecting

    def _begin_more(self) -> None:
        while self._plan and (not self._at_once or self._connecting < self._at_once):
            source, request, say = self._plan.popleft()
            opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            opened.setblocking(False)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            opened.setsockopt(socket.SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            opened.bind((source, 0))
            peer = Peer(opened, say, time.monotonic())
            peer.rest = request
            self._peers[opened.fileno()] = peer
            self._connecting += 1
            self._epoll.register(opened.fileno(), select.EPOLLOUT)
            code = opened.connect_ex(("127.0.0.1", self._port))
            if code not in (0, errno.EINPROGRESS):
                self._ended(peer)

    def _connected(self, peer: Peer) -> None:
        if peer.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._ended(peer)
            return
        request, peer.rest = peer.rest, b""
        self._epoll.modify(peer.socket.fileno(), READABLE)
        self._send(peer, request)

    def _shake_hands(self, peer: Peer, data: bytes) -> None:
        assert peer.head is not None
        head, end, rest = (peer.head + data).partition(b"\r\n\r\n")
        if not end:
            peer.head = head
            return
        if not head.startswith(b"HTTP/1.1 101"):
            self._ended(peer)
            return
        peer.head = None
        self._open += 1
        self._connecting -= 1
        self._delays.append(time.monotonic() - peer.began_at)
        say, peer.say = peer.say, b""
        if say:
            self._send(peer, say)
        if rest:
            self._view[: len(rest)] = rest
            self._count(peer, len(rest))
        if self._deaf:
            self._epoll.modify(peer.socket.fileno(), 0)
        self._begin_more()

    def _send(self, peer: Peer, data: bytes) -> None:
        """Short messages into an empty socket: all of it goes, or the connection is given up."""
        try:
            sent = peer.socket.send(data)
        except OSError:
            sent = 0
        if sent != len(data):
            self._ended(peer)

    def _ended(self, peer: Peer) -> None:
        if self._forget(peer):
            self._lost += 1
        else:
            self._failed += 1
        self._begin_more()

    def _forget(self, peer: Peer) -> bool:
        """Whether it had been open."""
        was_open = peer.head is None
        if self._peers.pop(peer.socket.fileno(), None) is not None:
            if was_open:
                self._open -= 1
            else:
                self._connecting -= 1
            peer.socket.close()  # which takes it from the epoll set
        return was_open

    # --- counting

    def _count(self, peer: Peer, size: int) -> None:
        self._bytes += size
        self._last_at = time.monotonic()
        at = 0
        if peer.rest:
            size = self._prepend(peer, size)
        elif peer.missing:
            at = min(peer.missing, size)
            peer.missing -= at
            if at == size:
                return
        buffer = self._buffer
        while at < size:
            length, begin = buffer[at + 1] if at + 1 < size else -1, at + 2
            if length >= _LONG:
                begin += 2 if length == _LONG else 8
                length = int.from_bytes(buffer[at + 2 : begin]) if begin <= size else -1
            if length < 0 or begin + min(length, KIND_AT + 1) > size:
                peer.rest = bytes(buffer[at:size])  # too little to count it by
                return
            opcode = buffer[at] & 0x0F
            if opcode in _DATA:
                self._frames += 1
                self._kinds[buffer[begin + KIND_AT] if length > KIND_AT else 0] += 1
            elif opcode == PING and begin + length <= size:
                self._send(peer, client_frame(bytes(buffer[begin : begin + length]), PONG))
            elif opcode == CLOSE:
                self._ended(peer)
                return
            at = begin + length
        peer.missing = at - size

    def _prepend(self, peer: Peer, size: int) -> int:
        rest, peer.rest = peer.rest, b""
        # The beginning of a header is a few bytes; only a full buffer has no room for it.
        data = rest + bytes(self._view[:size])
        if len(data) > len(self._buffer):
            self._buffer = bytearray(len(data))
            self._view = memoryview(self._buffer)
        self._view[: len(data)] = data
        return len(data)


def main(_: Sequence[str]) -> int:
    Sink().run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
