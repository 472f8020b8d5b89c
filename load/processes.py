"""What processes have used, from Linux's /proc (proc(5)). Elsewhere OSError is raised."""

import asyncio
import os
import resource
from pathlib import Path
from typing import Final

__all__ = ["busy_percent", "cpu_seconds", "raise_file_limit", "resident_bytes"]

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """User and system time of all its threads, in s."""
    # The name in parentheses may hold anything, so the fields are counted from behind it.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


async def busy_percent(seconds: float) -> float:
    """How much of all cores was used in the next `seconds`, by whomever."""
    busy, idle = _machine_ticks()
    await asyncio.sleep(seconds)
    busy_now, idle_now = _machine_ticks()
    used, unused = busy_now - busy, idle_now - idle
    return 100 * used / max(1, used + unused)


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
