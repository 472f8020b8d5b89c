"""What processes have used, as Linux tells it (proc(5), clock_getcpuclockid(3))."""

import asyncio
import os
import resource
import time
from pathlib import Path
from typing import Final

__all__ = ["TICK_S", "busy_percent", "busy_seconds", "cpu_seconds", "raise_file_limit", "resident_bytes"]

# The kernel's names of other processes' clocks, as glibc makes them; CPUCLOCK_SCHED counts all threads, ended
# ones too. /proc/<pid>/stat has the same in ticks of 10 ms, which is much where a turn lasts a second.
_CPUCLOCK_SCHED: Final = 2
TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """User and system time of all its threads, in s. Raises OSError if there is no such process."""
    return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


async def busy_percent(seconds: float) -> float:
    """How much of all cores was used in the next `seconds`, by whomever."""
    busy, idle = _machine_ticks()
    await asyncio.sleep(seconds)
    busy_now, idle_now = _machine_ticks()
    used, unused = busy_now - busy, idle_now - idle
    return 100 * used / max(1, used + unused)


def busy_seconds() -> float:
    """How long all cores together have been busy since the machine started, with whatever."""
    return _machine_ticks()[0] * TICK_S


def _machine_ticks() -> tuple[int, int]:
    """Busy and idle since the machine started."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, idle, waiting, interrupts, soft_interrupts = map(int, fields[:7])
    return user + nice + system + interrupts + soft_interrupts, idle + waiting


def raise_file_limit() -> int:
    """Lets this process and those it starts open as many files as the system allows; how many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
