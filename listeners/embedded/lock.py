import contextlib
import fcntl
import os
from pathlib import Path

from listeners.embedded.errors import EmbeddedError

__all__ = ["DirectoryLock"]


class DirectoryLock:
    """The right to run a server on a data directory, held as a lock on the file `lock` in it.

    The guard of the server inherits `fd` and with it the lock, so it is free only when the server is gone
    too. The file names the owner's pid.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "lock"
        self.fd = -1

    def acquire_nowait(self) -> bool:
        """Take the lock. False: a server is still being stopped for an owner that is gone; try again.

        Raises EmbeddedError when a living process holds it, or when the file can not be written.
        """
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise EmbeddedError(
                f"{self.path} can not be written ({error.strerror}): use another data directory"
            ) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(fd)
            os.close(fd)
            if owner is not None and _alive(owner):
                raise EmbeddedError(
                    f"{self.path.parent} is in use by process {owner}: stop it or use another data directory"
                ) from None
            return False
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self.fd = fd
        return True

    def release(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)


def _owner(fd: int) -> int | None:
    with contextlib.suppress(ValueError):
        return int(os.pread(fd, 32, 0))
    return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
