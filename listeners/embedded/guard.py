"""The process between us and an embedded server, which outlives neither.

It starts the server, reports its pid, and stops it when its own standard input ends: the kernel closes
that pipe however the owner dies, also by SIGKILL, on Linux and macOS alike (PR_SET_PDEATHSIG is Linux only
and is lost when the child changes its user). Run as a script it imports the standard library alone.
"""

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypedDict

__all__ = [
    "Order",
    "family",
    "freeze_family",
    "kill_family",
    "main",
    "process_name",
    "send",
    "signal_family",
    "supervise",
]

_LOOK_AT_PARENT_S = 1.0
_LINUX = Path("/proc/self/stat").exists()


class Order(TypedDict):
    """What to run; sent as one line of JSON."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    log: str
    user: int | None  # None: stay who we are
    group: int | None
    stop_signal: int
    grace_s: float  # after the stop signal, before SIGKILL
    parent: int


class _Process(NamedTuple):
    pid: int
    parent: int
    state: str
    name: str


def _processes() -> Mapping[int, _Process]:
    if _LINUX:
        return _processes_of_proc(Path("/proc"))
    # ps is at this path on macOS, and its output is as POSIX says.
    listing = subprocess.run(
        ["/bin/ps", "-A", "-o", "pid=,ppid=,state=,comm="], check=True, capture_output=True, text=True
    )
    return _processes_of_ps(listing.stdout)


def _processes_of_proc(proc: Path) -> Mapping[int, _Process]:
    found: dict[int, _Process] = {}
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text(errors="replace")
        except OSError:
            continue  # it ended while we looked
        # pid (name) state ppid ...; the name may hold spaces and parentheses (proc_pid_stat(5)).
        head, _, tail = stat.rpartition(")")
        state, parent = tail.split()[:2]
        found[int(entry.name)] = _Process(int(entry.name), int(parent), state, head.partition("(")[2])
    return found


def _processes_of_ps(listing: str) -> Mapping[int, _Process]:
    found: dict[int, _Process] = {}
    for line in listing.splitlines():
        pid, parent, state, name = line.split(None, 3)
        found[int(pid)] = _Process(int(pid), int(parent), state, os.path.basename(name))  # noqa: PTH119  (not a path: `-zsh`)
    return found


def process_name(pid: int) -> str | None:
    """The name of a running process; None if there is none, or only its zombie."""
    process = _processes().get(pid)
    return None if process is None or process.state.startswith("Z") else process.name


def family(pid: int) -> list[int]:
    """The living process `pid` and its descendants, parents first.

    A process group is not enough: every backend of Postgres is a session of its own.
    """
    processes = _processes()
    children: dict[int, list[int]] = {}
    for process in processes.values():
        if not process.state.startswith("Z"):
            children.setdefault(process.parent, []).append(process.pid)
    found = [pid] if pid in processes and not processes[pid].state.startswith("Z") else []
    for one in found:
        found.extend(children.get(one, ()))
    return found


def send(pid: int, signum: int) -> None:
    """Signal one process; one that has ended meanwhile is no error."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return


def signal_family(pid: int, signum: int) -> None:
    for one in family(pid):
        send(one, signum)


def freeze_family(pid: int) -> list[int]:
    """SIGSTOP a process and its descendants; returns their pids."""
    send(pid, signal.SIGSTOP)  # first alone: a postmaster that still runs would fork while we look
    pids = family(pid)
    for one in pids:
        send(one, signal.SIGSTOP)
    return pids


def kill_family(pid: int) -> list[int]:
    """SIGKILL a process and its descendants; returns their pids."""
    pids = freeze_family(pid)
    for one in pids:
        send(one, signal.SIGKILL)
    return pids


def supervise(order: Order, controls: Sequence[int], report: BinaryIO) -> int:
    """Run the server until it ends or one of the descriptors `controls` is readable (a pipe's end counts).

    Reports one line: `started <pid>`, or `failed <why>` when it could not be started at all. Returns the
    server's exit code, negative for a signal.
    """
    try:
        child = _start(order)
    except (OSError, subprocess.SubprocessError) as error:
        report.write(f"failed {error}\n".encode())
        report.close()
        return 1
    report.write(f"started {child.pid}\n".encode())
    report.close()
    ended, ends = os.pipe()

    def wait() -> None:
        child.wait()
        os.close(ends)

    waiter = threading.Thread(target=wait, daemon=True)
    waiter.start()
    try:
        if _owner_left_first(controls, ended, order["parent"]):
            _stop(child.pid, ended, order)
    finally:
        waiter.join()
        os.close(ended)
    return child.returncode


def _start(order: Order) -> subprocess.Popen[bytes]:
    with Path(order["log"]).open("ab") as log:
        return subprocess.Popen(  # noqa: S603  (the launcher's own words)
            order["argv"],
            env=order["env"],
            cwd=order["cwd"],
            user=order["user"],
            group=order["group"],
            extra_groups=None if order["user"] is None else [],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C at the terminal is for the owner alone
        )


def _owner_left_first(controls: Sequence[int], ended: int, parent: int) -> bool:
    while True:
        readable, _, _ = select.select([ended, *controls], [], [], _LOOK_AT_PARENT_S)
        if ended in readable:
            return False
        # A forked child of the owner may hold the pipe open after the owner's death.
        if readable or os.getppid() != parent:
            return True


def _stop(pid: int, ended: int, order: Order) -> None:
    signal_family(pid, signal.SIGCONT)  # a frozen server would not hear us
    send(pid, order["stop_signal"])
    if not select.select([ended], [], [], order["grace_s"])[0]:
        kill_family(pid)


def main() -> int:
    order: Order = json.loads(sys.stdin.buffer.readline())
    # SIGTERM means the same as the owner's end: never leave the server alone.
    told, tell = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(tell, b"!"))
    code = supervise(order, [sys.stdin.fileno(), told], sys.stdout.buffer)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
