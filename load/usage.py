"""What a process and all it has started have used between two looks."""

import os
import time
from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from load.processes import cpu_seconds

__all__ = ["Usage", "Use", "pids_of_tree", "pin_tree", "proportional_bytes"]

_KIB: Final = 1024


def pids_of_tree(pid: int) -> list[int]:
    """The process and its descendants, parents first."""
    found = [pid]
    for parent in found:
        with suppress(OSError):  # it has ended meanwhile
            for task in Path(f"/proc/{parent}/task").iterdir():
                found.extend(map(int, (task / "children").read_text().split()))
    return found


def pin_tree(pid: int, cores: Set[int]) -> None:
    """Lets all threads of the tree, and those that they start, run on these cores only."""
    for process in pids_of_tree(pid):
        with suppress(OSError):  # it has ended meanwhile
            for task in Path(f"/proc/{process}/task").iterdir():
                os.sched_setaffinity(int(task.name), cores)


def proportional_bytes(pid: int) -> int:
    """Resident memory of the tree: what several of its processes share counts once (proc(5), Pss)."""
    total = 0
    for process in pids_of_tree(pid):
        with suppress(OSError):
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total * _KIB


@dataclass(frozen=True)
class Use:
    """Of a stretch of time. `cpu_s` may be more than `seconds`: there are several cores."""

    seconds: float
    cpu_s: float

    @property
    def cores(self) -> float:
        return self.cpu_s / self.seconds


class Usage:
    """Counts from when it is made. Processes that end meanwhile are counted up to the last look."""

    def __init__(self, *pids: int) -> None:
        self._pids = pids
        self._seen: dict[int, float] = {}
        self._began_at = time.monotonic()
        self._before = self._look()

    def _look(self) -> float:
        for pid in self._pids:
            for process in pids_of_tree(pid):
                with suppress(OSError):
                    self._seen[process] = cpu_seconds(process)
        return sum(self._seen.values())

    def so_far(self) -> Use:
        return Use(time.monotonic() - self._began_at, self._look() - self._before)
