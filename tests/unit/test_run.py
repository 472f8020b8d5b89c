import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run import NOTHING, Outcome, processes_of, read_outcome

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest">
  <testcase classname="a" name="one"/>
  <testcase classname="a" name="two"><system-out>words</system-out></testcase>
  <testcase classname="a" name="three"><failure message="no"/></testcase>
  <testcase classname="a" name="four"><error message="at setup"/></testcase>
  <testcase classname="a" name="five"><skipped message="no Chromium"/></testcase>
  <testcase classname="a" name="six"><skipped message="no Chromium"/></testcase>
</testsuite></testsuites>
"""


class TestTheCounts:
    def test_come_from_the_report(self, tmp_path: Path) -> None:
        (tmp_path / "report.xml").write_text(REPORT)
        assert read_outcome(tmp_path / "report.xml") == Outcome(2, 1, 1, {"no Chromium": 2})

    def test_are_nothing_when_pytest_died(self, tmp_path: Path) -> None:
        assert read_outcome(tmp_path / "report.xml") == NOTHING

    def test_of_several_suites_are_added_up(self) -> None:
        total = Outcome(1, 2, 0, {"a": 1, "b": 1}) + Outcome(10, 20, 0, {"a": 3})
        assert total == Outcome(11, 22, 0, {"a": 4, "b": 1})

    @pytest.mark.parametrize(
        ("outcome", "text"),
        [
            (Outcome(7, 0, 0, {}), "7 passed, 0 failed, 0 skipped"),
            (Outcome(7, 1, 2, {"a": 2, "b": 1}), "7 passed, 1 failed, 3 skipped, 2 errors"),
        ],
    )
    def test_are_told_in_one_line(self, outcome: Outcome, text: str) -> None:
        assert str(outcome) == text


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
class TestLeftovers:
    """What a test leaves running is recognised by the run's directory."""

    @pytest.mark.parametrize("named_in", ["environment", "command"])
    def test_are_found(self, named_in: str, tmp_path: Path) -> None:
        variables = {"TMPDIR": str(tmp_path)} if named_in == "environment" else {}
        argument = [str(tmp_path)] if named_in == "command" else []
        wait = "import sys; sys.stdout.write('up'); sys.stdout.flush(); sys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", wait, *argument],
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.read(2) == b"up"
            assert list(processes_of(tmp_path)) == [process.pid]
            process.kill()
        assert processes_of(tmp_path) == {}
