"""One input of bytes, as fuzzers that are led by coverage want it (tests.fuzz.atheris_run)."""

import asyncio
import random
from typing import Final

from tests.fuzz.harness import Harness, QuickLoop, harness
from tests.fuzz.inputs import draw_input

__all__ = ["BytesRandom", "Target", "run_one_input"]

_DOUBLE_BITS: Final = 53


class BytesRandom(random.Random):
    """Chance that is read from bytes, zeros once they are used up."""

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self._data = data
        self._at = 0

    def getrandbits(self, k: int) -> int:
        size = (k + 7) // 8
        taken = self._data[self._at : self._at + size].ljust(size, b"\0")
        self._at += size
        return int.from_bytes(taken, "little") & ((1 << k) - 1)

    def random(self) -> float:
        return self.getrandbits(_DOUBLE_BITS) / (1 << _DOUBLE_BITS)


class Target:
    """One gateway for all inputs of the process: to make it anew takes longer than most inputs."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner(loop_factory=QuickLoop)
        self._context = harness()
        self._harness: Harness = self._runner.run(self._context.__aenter__())

    def feed(self, data: bytes) -> str:
        return self._runner.run(self._harness.feed(draw_input(BytesRandom(data))[0]))

    def close(self) -> None:
        self._runner.run(self._context.__aexit__(None, None, None))
        self._runner.close()


def run_one_input(data: bytes) -> None:
    """Raises what is wrong. For itself: with a gateway of its own."""
    target = Target()
    try:
        target.feed(data)
    finally:
        target.close()
