"""Everything CI runs, in order: `make test` is `python -m tests.run`, `make faults` is that with `--faults`.

Stops after the first suite that fails. Coverage is of all processes, those that tests start included; the
fault tests go without.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple

from tests.faults.ledger import LEDGER
from tests.faults.report import AT_LEAST, read_report, table

__all__ = ["Outcome", "main", "processes_of", "read_outcome"]

ROOT: Final = Path(__file__).resolve().parents[1]
COVERAGE_PERCENT: Final = 95
PROTOCOL_COVERAGE_PERCENT: Final = 100
# How long a suite's last processes may take to end by themselves.
GRACE_S: Final = 5.0
# How long pytest may take to end its fixtures when the run is interrupted.
STOP_S: Final = 30.0


class Suite(NamedTuple):
    heading: str
    paths: tuple[str, ...]


# Whatever is added beside them is run without being named here.
SUITES: Final = (
    Suite("unit tests: no network", ("tests/unit",)),
    Suite(
        "integration, acceptance and browser: real servers",
        ("tests", "--ignore=tests/unit", "--ignore=tests/faults"),
    ),
)
_BULK: Final = "tests/faults/test_bulk.py"
FAULTS: Final = Suite(
    "faults: servers, links, processes and clients that fail", ("tests/faults", f"--ignore={_BULK}")
)
# By itself: it keeps two cores busy for minutes, and everything else is timed.
BULK: Final = Suite("faults: a million rows at once", (_BULK,))


class Outcome(NamedTuple):
    """What one or several runs of pytest came to. `skipped` are the reasons, each with its count."""

    passed: int
    failed: int
    errors: int
    skipped: Mapping[str, int]

    def __add__(self, other: object) -> "Outcome":
        if not isinstance(other, Outcome):
            return NotImplemented
        skipped = Counter(self.skipped) + Counter(other.skipped)
        counts = (self.passed + other.passed, self.failed + other.failed, self.errors + other.errors)
        return Outcome(*counts, skipped)

    def __str__(self) -> str:
        errors = f", {self.errors} errors" if self.errors else ""
        return f"{self.passed} passed, {self.failed} failed, {sum(self.skipped.values())} skipped{errors}"


NOTHING: Final = Outcome(0, 0, 0, {})


def read_outcome(report: Path) -> Outcome:
    """The counts of a JUnit report; nothing if pytest did not live to write it."""
    if not report.exists():
        return NOTHING
    cases = list(ET.parse(report).getroot().iter("testcase"))
    reasons = Counter(skip.get("message", "") for case in cases if (skip := case.find("skipped")) is not None)
    failed = sum(case.find("failure") is not None for case in cases)
    errors = sum(case.find("error") is not None for case in cases)
    wrong = sum(any(case.find(tag) is not None for tag in ("failure", "error", "skipped")) for case in cases)
    return Outcome(len(cases) - wrong, failed, errors, reasons)


def heading(text: str) -> None:
    print(f"\n=== {text} ===\n", flush=True)


def run_suite(suite: Suite, *, workers: int, scratch: Path, covered: bool = True) -> tuple[bool, Outcome]:
    """Runs it, under coverage or not; whether all is well, and the counts."""
    heading(suite.heading)
    report = scratch / f"{suite.paths[-1].replace('/', '-')}.xml"
    # worksteal: a worker that is done takes tests over from one that is held up by slow ones.
    parallel = ("-n", str(workers), "--dist", "worksteal") if workers > 1 else ()
    options = ("-q", *parallel, "-p", "no:cacheprovider", "--durations=10", "--durations-min=1")
    pytest = ("-m", "pytest", *options, f"--junitxml={report}", *suite.paths)
    code = run_python(("-m", "coverage", "run", *pytest) if covered else pytest)
    return code == 0, read_outcome(report)


def run_python(arguments: Sequence[str]) -> int:
    """Runs this interpreter in the project's root; a stop of ours stops it as well."""
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT)
    try:
        return process.wait()
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):  # a Ctrl-C has reached it as well; a second one is rude
            process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        process.kill()
        process.wait()
        raise


def check_coverage() -> bool:
    heading(f"coverage: branches, at least {COVERAGE_PERCENT} %")
    run_python(("-m", "coverage", "combine", "--quiet"))
    enough = run_python(("-m", "coverage", "report", f"--fail-under={COVERAGE_PERCENT}")) == 0
    heading(f"coverage of protocol/: {PROTOCOL_COVERAGE_PERCENT} %")
    protocol = ("--include=protocol/*", f"--fail-under={PROTOCOL_COVERAGE_PERCENT}")
    return (run_python(("-m", "coverage", "report", *protocol)) == 0) and enough


def processes_of(scratch: Path) -> dict[int, str]:
    """The processes, by id, whose environment or command names the run's directory; Linux only."""
    mark, found = str(scratch).encode(), {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            command = (directory / "cmdline").read_bytes()
            if mark in command or mark in (directory / "environ").read_bytes():
                found[int(directory.name)] = command.replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:  # it ended meanwhile, or is another user's and so not of this run
            continue
    found.pop(os.getpid(), None)
    return found


def stop_leftovers(scratch: Path) -> list[str]:
    """Kills what the tests have left running, after a moment to end by itself; what that was."""
    deadline = time.monotonic() + GRACE_S
    while (left := processes_of(scratch)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return [f"{pid}: {command}" for pid, command in left.items()]


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """Where the run keeps everything it writes; gone afterwards.

    Open to `nobody`, whom Postgres runs as under root, and short: a socket's path has 107 bytes.
    """
    path = Path(tempfile.mkdtemp(prefix="igw-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def run_all(workers: int, scratch: Path) -> tuple[list[str], Outcome]:
    """Runs suites and coverage. What went wrong, one line each, and the counts."""
    total = NOTHING
    for suite in SUITES:
        well, outcome = run_suite(suite, workers=workers, scratch=scratch)
        total += outcome
        problems = [f"left running by the tests: {process}" for process in stop_leftovers(scratch)]
        if not well:
            problems.append(f"failed: {suite.heading}")
        if problems:
            return problems, total
    return ([] if check_coverage() else ["the coverage is too low"]), total


def run_faults(workers: int, scratch: Path) -> tuple[list[str], Outcome]:
    """Runs the fault tests and prints what their ledger says. As run_all."""
    ledger = scratch / "ledger"
    ledger.mkdir()
    os.environ[LEDGER] = str(ledger)
    problems, total = [], NOTHING
    for suite, width in ((FAULTS, workers), (BULK, 1)):
        well, outcome = run_suite(suite, workers=width, scratch=scratch, covered=False)
        total += outcome
        problems += [f"left running by the tests: {process}" for process in stop_leftovers(scratch)]
        if not well:
            problems.append(f"failed: {suite.heading}")
    report = read_report(ledger)
    heading("faults")
    print(table(report))
    if report.faults < AT_LEAST:
        problems.append(f"only {report.faults} faults were injected, {AT_LEAST} are promised")
    return problems, total


def print_end(problems: Iterable[str], outcome: Outcome, *, seconds: float) -> None:
    print()
    for reason, count in sorted(outcome.skipped.items()):
        print(f"skipped {count}: {reason}")
    for problem in problems:
        print(problem)
    print(f"=== {outcome} in {seconds:.1f}s ===", flush=True)


def stop(signal_number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signal_number)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.run", description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="pytest processes (2)")
    parser.add_argument("--faults", action="store_true", help="the fault tests instead of the others")
    options = parser.parse_args(arguments)
    run = run_faults if options.faults else run_all
    signal.signal(signal.SIGTERM, stop)
    began = time.monotonic()
    with scratch_directory() as scratch:
        # Every process of the tests inherits these; the first is also how it is recognised.
        os.environ |= {"TMPDIR": str(scratch), "COVERAGE_FILE": str(scratch / ".coverage")}
        try:
            problems, outcome = run(options.workers, scratch)
        except KeyboardInterrupt:
            problems, outcome = ["interrupted"], NOTHING
        finally:
            stop_leftovers(scratch)
    print_end(problems, outcome, seconds=time.monotonic() - began)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
