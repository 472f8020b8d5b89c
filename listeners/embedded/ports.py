import random
import socket
from collections.abc import Callable

__all__ = ["free_port"]

# Below the ranges that Linux (32768..) and macOS (49152..) take for outgoing connections: a server that is
# restarted on its port must not find a client's socket there.
_FIRST, _LAST = 20_000, 32_000
# Not the shared generator: whoever seeds that would let two processes guess the same ports.
_RANDOM = random.SystemRandom()


def free_port(*, randint: Callable[[int, int], int] = _RANDOM.randint) -> int:
    """A TCP port of 127.0.0.1 that is free now; somebody may take it a moment later: try again then.

    Raises OSError when a hundred guesses are all taken.
    """
    for _ in range(100):
        port = randint(_FIRST, _LAST)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free TCP port found between {_FIRST} and {_LAST}")
