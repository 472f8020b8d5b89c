import time
from collections.abc import Callable
from typing import TextIO

__all__ = ["Progress"]

_BAR = 24
_REDRAW_S = 0.1


class Progress:
    """How far a long work is: a bar that redraws itself on a terminal, elsewhere a line for each tenth."""

    def __init__(
        self,
        what: str,
        total: int,
        *,
        out: TextIO,
        terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`what` begins every line. `terminal`: whether `out` can redraw a line; None: ask it."""
        self._what = what
        self._total = total
        self._out = out
        self._terminal = out.isatty() if terminal is None else terminal
        self._clock = clock
        self._began = clock()
        self._done = 0
        self._tenths = 0
        self._redraw_at = self._began

    def advance(self, rows: int) -> None:
        self._done += rows
        if self._terminal:
            if self._clock() >= self._redraw_at or self._done >= self._total:
                self._redraw_at = self._clock() + _REDRAW_S
                self._write(f"\r{self._bar()}{self._line()}\x1b[K")
        elif self._total and self._done * 10 // self._total > self._tenths:
            self._tenths = self._done * 10 // self._total
            self._write(f"{self._what}: {self._line()}\n")

    def finish(self) -> None:
        """Leave the line, also when the work has stopped short."""
        if self._terminal and self._done:
            self._write("\n")

    def summary(self) -> str:
        """How long it took and how fast it was."""
        elapsed_s = self._clock() - self._began
        return f"{elapsed_s:.1f} s, {self._done / elapsed_s if elapsed_s > 0 else 0:,.0f} rows/s"

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()

    def _bar(self) -> str:
        filled = _BAR * self._done // max(1, self._total)
        return f"{self._what} [{'#' * filled}{'.' * (_BAR - filled)}] "

    def _line(self) -> str:
        elapsed_s = self._clock() - self._began
        per_s = self._done / elapsed_s if elapsed_s > 0 else 0.0
        line = f"{100 * self._done // max(1, self._total):3d} %  {self._done:,} of {self._total:,} rows"
        if per_s > 0:
            line += f"  {per_s:,.0f} rows/s"
            if self._done < self._total:
                line += f"  {_minutes((self._total - self._done) / per_s)} left"
        return line


def _minutes(seconds: float) -> str:
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"
