"""Ports for servers that are started a while after their port was chosen, and keep it when they come back."""

import os
import random
from itertools import count

from listeners import embedded

__all__ = ["free_port"]

# Below those of listeners.embedded. Each worker of pytest has a slice of its own and goes through it in turn:
# of a dozen ports drawn by chance for each of a hundred stacks, two are the same now and then.
_FIRST, _SLICE, _WORKERS = 10_000, 1_000, 10

_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw9").removeprefix("gw")) % _WORKERS
_next = count(random.SystemRandom().randrange(_SLICE))


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now, and that nobody else here has been given of late.

    Raises OSError when a hundred in a row are taken.
    """
    return embedded.free_port(randint=lambda *_: _FIRST + _worker * _SLICE + next(_next) % _SLICE)
