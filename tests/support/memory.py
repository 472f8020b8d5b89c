"""The memory of a process of ours, on Linux (proc_pid_status(5), proc_pid_clear_refs(5))."""

from pathlib import Path

__all__ = ["forget_peak", "peak_bytes", "resident_bytes"]


def resident_bytes(pid: int) -> int:
    return _status(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """The most that was resident since forget_peak(), or since the process began."""
    return _status(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
