import asyncio
import errno
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

import structlog

from gateway.arrivals import Arrival, Arrivals, Caller, too_many_requests

__all__ = ["BACKLOG", "Acceptor"]

log = structlog.get_logger(__name__)

BACKLOG: Final = 4096
# What is accepted in one turn of the loop, some 0.5 ms: a change takes several turns from Postgres to
# clients, and waits so long in each while a flood lasts. One that is refused takes 30 us; one that is let in
# as much, and its request several times that in the next turn.
_TURN: Final = 16
_LET_IN: Final = 4
_REFUSED: Final = 1
# No descriptor is free: it is tried again after this, in s.
_PAUSE_S: Final = 0.5
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """Takes connections off a listening socket; who is refused costs an accept(), a send() and a close().

    The loop's own servers would make a transport and a protocol first, and shake hands for TLS; and uvloop's
    accepts one connection a turn (libuv since 1.45), so that in a flood good clients wait behind everybody
    who came before, a turn for each.
    """

    def __init__(
        self, arrivals: Arrivals, make: Callable[[Caller], Arrival], options: dict[str, Any] | None = None
    ) -> None:
        """`options` are those of connect_accepted_socket()."""
        self._arrivals = arrivals
        self._make = make
        self._options = options or {}
        self._listening: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, listening: socket.socket) -> None:
        """From now on, until stop(), which closes it."""
        listening.setblocking(False)
        listening.listen(BACKLOG)
        self._listening = listening
        self._read()

    def stop(self) -> None:
        """What was accepted stays."""
        if self._timer is not None:
            self._timer.cancel()
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None

    def _read(self) -> None:
        self._timer = None
        if self._listening is not None:
            asyncio.get_running_loop().add_reader(self._listening, self._accept, self._listening)

    def _accept(self, listening: socket.socket) -> None:
        left = _TURN
        while left > 0:
            try:
                accepted, peer = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(listening, error)
                    return
                left -= _REFUSED  # of that connection (accept(2))
                continue
            accepted.setblocking(False)
            caller = self._arrivals.call(peer[0] if isinstance(peer, tuple) else "")
            if caller.through_proxy and self._arrivals.settings.proxy_protocol:
                left -= _LET_IN
                self._arrivals.proxy_headers.read(accepted, partial(self._named, accepted, caller))
            else:
                left -= _LET_IN if self._take(accepted, caller) else _REFUSED

    def _named(self, accepted: socket.socket, proxy: Caller, source: str | None) -> None:
        """By a PROXY header. A source that is a trusted proxy itself may be named in one more way."""
        self._take(accepted, proxy if source is None else self._arrivals.call(source))

    def _take(self, accepted: socket.socket, caller: Caller) -> bool:
        """False: it is refused without words, as cheaply as can be."""
        if caller.refusal is None or caller.refusal.told:
            self._take_in(accepted, caller)
            return True
        with suppress(OSError), accepted:
            accepted.send(too_many_requests(caller.refusal.retry_after_s))
        return False

    def _take_in(self, accepted: socket.socket, caller: Caller) -> None:
        loop, taking = asyncio.get_running_loop(), self._arrivals.taking
        arrival = self._make(caller)

        def taken(task: asyncio.Task[Any]) -> None:
            taking.discard(task)
            error = None if task.cancelled() else task.exception()
            if task.cancelled() or error is not None:
                accepted.close()
                arrival.give_up()
            if error is not None and not isinstance(error, OSError):
                log.error("a connection could not be taken over", exc_info=error)

        task = loop.create_task(loop.connect_accepted_socket(lambda: arrival, accepted, **self._options))
        taking.add(task)
        task.add_done_callback(taken)

    def _pause(self, listening: socket.socket, error: OSError) -> None:
        log.error("no more connections can be accepted", error=error.strerror)
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        self._timer = loop.call_later(_PAUSE_S, self._read)
