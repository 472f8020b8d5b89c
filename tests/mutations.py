"""`make mutations`: takes each safeguard away, one after the other, and sees that a test goes red.

A safeguard whose absence no test notices is not tested. The mutations are listed in tests.safeguards.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Final, NamedTuple

from tests.safeguards import SAFEGUARDS, Mutation

__all__ = ["main", "mutated"]

ROOT: Final = Path(__file__).resolve().parents[1]
PARTS: Final = ("gateway", "listeners", "protocol", "load", "tests", "pyproject.toml")
TIMEOUT_S: Final = 180
# What pytest ends with: all passed; some failed.
GREEN: Final = 0
RED: Final = 1


class Verdict(NamedTuple):
    mutation: Mutation
    problem: str  # empty: a test has gone red, as it should
    noticed_by: str  # the first test that has
    seconds: float


def mutated(text: str, mutation: Mutation) -> str:
    """Raises LookupError unless what is to be replaced is there exactly once: the mutation is out of date."""
    count = text.count(mutation.old)
    if count != 1:
        raise LookupError(f"{mutation.file} has {count} times: {mutation.old!r}")
    return text.replace(mutation.old, mutation.new)


@contextmanager
def copied_tree() -> Iterator[Path]:
    """The project in a directory of its own, where `nobody`, whom Postgres runs as under root, can come."""
    with tempfile.TemporaryDirectory(prefix="igw-mutant-") as directory:
        tree = Path(directory)
        tree.chmod(0o755)
        for name in PARTS:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, tree / name)
        yield tree


def run_tests(tree: Path, tests: Sequence[str]) -> tuple[int, str]:
    """The exit code of pytest in the tree, and the end of what it printed."""
    command = (sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests)
    # Before the project that the environment has installed, also for the processes that tests start.
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    return done.returncode, done.stdout[-2000:] + done.stderr[-1000:]


def judge(mutation: Mutation, tree: Path) -> Verdict:
    began = time.monotonic()
    file = tree / mutation.file
    healthy = file.read_text()
    noticed_by = ""
    try:
        file.write_text(mutated(healthy, mutation))
        code, output = run_tests(tree, mutation.tests)
        problem = "" if code == RED else f"no test goes red (pytest ended with {code})"
        noticed_by = first_failure(output)
    except LookupError as error:
        problem = str(error)
    except subprocess.TimeoutExpired:
        problem = f"the tests did not end within {TIMEOUT_S} s"
    finally:
        file.write_text(healthy)
    return Verdict(mutation, problem, noticed_by, time.monotonic() - began)


def first_failure(output: str) -> str:
    """The test that pytest's summary names first; empty if it names none."""
    failed = re.search(r"^(?:FAILED|ERROR) \S*?([^/\s]+\.py::.+?)(?: - .*)?$", output, re.MULTILINE)
    return failed[1] if failed else ""


def judge_all(mutations: Sequence[Mutation], workers: int) -> Iterator[Verdict]:
    """In order, as they come; each worker has a tree of its own."""
    trees: SimpleQueue[Path] = SimpleQueue()

    def with_tree(mutation: Mutation) -> Verdict:
        tree = trees.get()
        try:
            return judge(mutation, tree)
        finally:
            trees.put(tree)

    with ExitStack() as stack:
        for _ in range(workers):
            trees.put(stack.enter_context(copied_tree()))
        threads = stack.enter_context(ThreadPoolExecutor(workers))
        yield from threads.map(with_tree, mutations)


def check_healthy(mutations: Sequence[Mutation]) -> str:
    """Empty if the tests pass as long as nothing is taken away."""
    tests = sorted({argument for mutation in mutations for argument in mutation.tests})
    with copied_tree() as tree:
        code, output = run_tests(tree, tests)
    return "" if code == GREEN else f"the tests are red without any mutation:\n{output}"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="at a time (2)")
    parser.add_argument("only", nargs="*", help="safeguards that contain one of these words; all")
    options = parser.parse_args(arguments)
    mutations = [
        m for m in SAFEGUARDS if not options.only or any(word in m.safeguard for word in options.only)
    ]
    began = time.monotonic()
    problem = check_healthy(mutations)
    if problem:
        print(problem)
        return 1
    survivors = 0
    for verdict in judge_all(mutations, options.workers):
        survivors += bool(verdict.problem)
        outcome = verdict.problem or f"red by {verdict.noticed_by}"
        print(f"{verdict.seconds:5.1f} s  {verdict.mutation.safeguard}: {outcome}", flush=True)
    red = len(mutations) - survivors
    print(f"=== {red} of {len(mutations)} mutations turn the tests red, {time.monotonic() - began:.0f} s ===")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
