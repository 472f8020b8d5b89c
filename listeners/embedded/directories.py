import hashlib
import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from listeners.embedded.errors import EmbeddedError

__all__ = ["Account", "first_closed", "make_directory", "reachable_data_dir", "unprivileged"]

_SYSTEM_BASE = Path("/var/lib/inventory-gateway")


@dataclass(frozen=True)
class Account:
    uid: int
    gid: int
    name: str


def unprivileged() -> Account | None:
    """Whom Postgres runs as: `nobody` if we are root, whom it refuses; None: as ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedError(
            "Postgres does not run as root and there is no user `nobody`: start as another user"
        ) from None
    return Account(entry.pw_uid, entry.pw_gid, entry.pw_name)


def make_directory(path: Path) -> None:
    """Make a directory with its parents, open to readers whatever the umask says (a server may be `nobody`).

    Raises EmbeddedError when it can not be made or is no directory.
    """
    missing = [one for one in (path, *path.parents) if not one.exists()]
    try:
        for one in reversed(missing):
            one.mkdir(exist_ok=True)
            one.chmod(0o755)
        if not path.is_dir():
            raise NotADirectoryError(20, "not a directory")
    except OSError as error:
        raise EmbeddedError(
            f"the data directory {path} can not be made ({error.strerror}): use another"
        ) from None


def first_closed(path: Path, account: Account) -> Path | None:
    """What on the way to `path`, itself included, the account may not pass; None: it arrives."""
    for one in (*reversed(path.parents), path):
        status = one.stat()
        if status.st_uid == account.uid:
            allowed = status.st_mode & 0o100
        elif status.st_gid == account.gid:
            allowed = status.st_mode & 0o010
        else:
            allowed = status.st_mode & 0o001
        if not allowed:
            return one
    return None


def reachable_data_dir(wanted: Path, *, base: Path = _SYSTEM_BASE) -> Path:
    """`wanted` if the account that Postgres runs as gets there, else a directory of its own below `base`.

    Only root ever needs the second, for a data directory below a closed one such as /root. The same `wanted`
    always gives the same answer. Raises EmbeddedError when `wanted` can not be made.
    """
    account = unprivileged()
    make_directory(wanted)
    real = wanted.resolve()
    if account is None or first_closed(real, account) is None:
        return wanted
    return base / f"{real.name}-{hashlib.sha256(str(real).encode()).hexdigest()[:12]}"
