import asyncio
import time
from collections.abc import Callable
from typing import Final

__all__ = ["TURN_BYTES", "Turns"]

# What is parsed at a time: with the smallest frames some 2 ms of work.
TURN_BYTES: Final = 2048
# Whoever sends more at once waits so many times as long as each turn took: a client that floods has a quarter
# of the process at the most, and the others hardly notice (tests/faults/test_hostile_clients.py).
PAUSE: Final = 3.0


class Turns:
    """What a client has sent at once, handed on a little at a time. One loop, plain functions."""

    __slots__ = ("_clock", "_done", "_take", "_timer", "_took_s", "unread")

    def __init__(
        self,
        data: bytes,
        *,
        take: Callable[[bytes], None],
        done: Callable[[], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`take` is given up to TURN_BYTES; `done` follows each turn, to ask for the next() if any."""
        self.unread = bytearray(data)
        self._take = take
        self._done = done
        self._clock = clock
        self._took_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def next(self) -> None:
        """A turn, once everybody else has had one."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PAUSE * self._took_s, self._turn)

    def stop(self) -> None:
        """No turn until next()."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _turn(self) -> None:
        self._timer = None
        began = self._clock()
        data = bytes(self.unread[:TURN_BYTES])
        del self.unread[:TURN_BYTES]
        self._take(data)
        self._took_s = self._clock() - began
        self._done()
