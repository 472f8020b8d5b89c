"""Clocks of processes that jump when a test says so, by libfaketime where it is installed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from listeners.embedded import PostgresServer, ValkeyServer
from listeners.embedded.process import Program

__all__ = ["LIBRARY", "Clock"]

LIBRARY: Final = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
"""Debian's package `libfaketime`; None where it is missing."""


class Clock:
    """The wall clock of every process that has `environment`; monotonic clocks go on as they are."""

    def __init__(self, file: Path) -> None:
        assert LIBRARY is not None
        self._file = file
        self.environment: Mapping[str, str] = {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        self.jump(0)

    def jump(self, ahead_s: int) -> None:
        """From now on it is so many seconds ahead of the machine's, or behind."""
        whole = self._file.with_suffix(".new")
        whole.write_text(f"{ahead_s:+d}\n")
        whole.chmod(0o644)
        whole.rename(self._file)

    def postgres(self, *arguments: Any, **options: Any) -> PostgresServer:
        """One that goes by this clock."""
        return _FakedPostgres(self, *arguments, **options)

    def valkey(self, *arguments: Any, **options: Any) -> ValkeyServer:
        """One that goes by this clock."""
        return _FakedValkey(self, *arguments, **options)

    def winds(self, program: Program) -> Program:
        """The program under this clock; its guard gives it no environment of ours."""
        words = [f"{name}={value}" for name, value in self.environment.items()]
        return Program(
            ("/usr/bin/env", *words, *program.argv),
            program.log,
            program.stop_signal,
            program.user,
            program.group,
        )


class _FakedPostgres(PostgresServer):
    def __init__(self, clock: Clock, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._clock = clock

    def _program(self) -> Program:
        return self._clock.winds(super()._program())


class _FakedValkey(ValkeyServer):
    def __init__(self, clock: Clock, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._clock = clock

    def _program(self) -> Program:
        return self._clock.winds(super()._program())
