"""What the fault tests inject, and how long it takes until it is noticed and until all is well again.

Every line goes to a file in the directory that GATEWAY_FAULTS_LEDGER names (tests.faults.report reads them);
without it the lines are kept nowhere, and the promises are checked all the same.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import orjson

from tests.faults.lateness import late_since

__all__ = ["LEDGER", "PROMISED_S", "Fault", "injected", "note", "tally"]

LEDGER: Final = "GATEWAY_FAULTS_LEDGER"
# After the end of a fault every copy equals the database within this time, in s.
PROMISED_S: Final = 10.0


class Fault:
    """One fault; it began when this was made. All times are of the monotonic clock, in s."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.began = time.monotonic()
        self._noticed: float | None = None
        self._ended: float | None = None
        self._recovered: float | None = None

    def noticed(self, at: float | None = None) -> None:
        """The gateway or a client has noticed (`at`; now). Only the first call counts."""
        if self._noticed is None:
            self._noticed = time.monotonic() if at is None else at

    def ended(self) -> None:
        """Whatever was broken works again. A fault of a moment needs no end."""
        self._ended = time.monotonic()

    def recovered(self) -> None:
        """Every copy equals the database, and nobody is stale."""
        self._recovered = time.monotonic()

    @property
    def detection_s(self) -> float | None:
        return None if self._noticed is None else self._noticed - self.began

    @property
    def late_s(self) -> float:
        """How late the machine was since it began: see tests.faults.lateness."""
        return late_since(self.began)

    @property
    def recovery_s(self) -> float:
        """From the end of the fault. Raises AssertionError if it never recovered."""
        assert self._recovered is not None, f"{self.kind}: nothing says that all is well again"
        return self._recovered - (self._ended or self.began)


@contextmanager
def injected(kind: str, *, promised_s: float = PROMISED_S) -> Iterator[Fault]:
    """A fault of this kind (`<where>: <what>`) is injected in the block, and is over at its end.

    Raises AssertionError when recovery was not seen, or took longer than `promised_s` and what the machine
    was late.
    """
    fault = Fault(kind)
    yield fault
    note(fault, promised_s=promised_s)


def note(fault: Fault, *, promised_s: float = PROMISED_S) -> None:
    """Puts the fault into the ledger: all is well again. Raises as `injected` does."""
    recovery_s = fault.recovery_s
    _write({"kind": fault.kind, "detection_s": fault.detection_s, "recovery_s": recovery_s})
    promise = f"{promised_s:g} s promised, the machine was {fault.late_s:.1f} s late"
    late = f"{fault.kind}: {recovery_s:.1f} s until all was well, {promise}"
    assert recovery_s <= promised_s + fault.late_s, late


def tally(name: str, count: float = 1) -> None:
    """Adds to what the report sums up under this name."""
    _write({"tally": name, "count": count})


def _write(line: dict[str, Any]) -> None:
    directory = os.environ.get(LEDGER)
    if directory:
        with (Path(directory) / f"{os.getpid()}.jsonl").open("ab") as file:
            file.write(orjson.dumps(line) + b"\n")
