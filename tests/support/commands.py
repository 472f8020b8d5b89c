"""Runs commands of the gateway inside the test's process."""

import asyncio
import os
from dataclasses import dataclass

import pytest

from gateway.cli import run_command

__all__ = ["CommandRunner", "Outcome"]


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line on stderr, without the program's name."""
        (line,) = self.err.splitlines()
        return line.removeprefix("inventory-gateway: ")


class CommandRunner:
    """Commands with an environment of their own; for those that need no signal handlers."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **settings: str
    ) -> None:
        self._capsys = capsys
        for name in [name for name in os.environ if name.startswith("GATEWAY_")]:
            monkeypatch.delenv(name)
        for name, value in settings.items():
            monkeypatch.setenv(f"GATEWAY_{name.upper()}", value)

    async def __call__(self, *arguments: str) -> Outcome:
        self._capsys.readouterr()
        code = await asyncio.to_thread(run_command, arguments)
        output = self._capsys.readouterr()
        return Outcome(code, output.out, output.err)
