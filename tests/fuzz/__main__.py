"""`make fuzz`: so many inputs of a hostile client, how fast, what came of them, and whether memory grows."""

import argparse
import asyncio
import gc
import os
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from tests.fuzz.harness import Harness, QuickLoop, harness, hear_errors
from tests.fuzz.inputs import draw_input
from tests.support.memory import resident_bytes

__all__ = ["main"]

SAMPLES: Final = 20
# Of the last three quarters of a run: what the first inputs leave behind are caches that fill.
OBJECTS_AT_MOST: Final = 1000
BYTES_AT_MOST: Final = 8 * 1024 * 1024
MIB: Final = 1024 * 1024


class Sample(NamedTuple):
    """After `inputs`: what this process keeps. `objects` are those that the garbage collector knows."""

    inputs: int
    objects: int
    resident: int


class Run(NamedTuple):
    seconds: float
    kinds: Counter[str]
    outcomes: Counter[str]
    failures: list[str]
    samples: list[Sample]


def growth(samples: Sequence[Sample]) -> tuple[int, int]:
    """Objects and bytes, from the first quarter's end to the run's end."""
    first, last = samples[len(samples) // 4], samples[-1]
    return last.objects - first.objects, last.resident - first.resident


async def fuzz(inputs: int, seed: int) -> Run:
    """Each input is drawn from a seed of its own, so that it can be had again alone: `--seed N --only K`."""
    kinds: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    samples = []
    began = time.perf_counter()
    async with harness() as tested:
        for number in range(inputs):
            if number % max(1, inputs // SAMPLES) == 0:
                samples.append(take_sample(number))
            kind, outcome = await one(tested, seed, number, failures)
            kinds[kind] += 1
            outcomes[outcome] += 1
            if len(failures) >= 5:
                break
        samples.append(take_sample(inputs))
    return Run(time.perf_counter() - began, kinds, outcomes, failures, samples)


async def one(tested: Harness, seed: int, number: int, failures: list[str]) -> tuple[str, str]:
    chunks, kind = draw_input(random.Random(f"{seed}:{number}"))
    try:
        return kind, await tested.feed(chunks)
    except Exception:  # noqa: BLE001 - whatever it is, it is what is looked for
        failures.append(f"input {number} ({kind}) {chunks!r:.2000}\n{traceback.format_exc()}")
        return kind, "FAILED"


def take_sample(number: int) -> Sample:
    gc.collect()
    return Sample(number, len(gc.get_objects()), resident_bytes(os.getpid()))


def report(run: Run) -> int:
    """Prints it; the exit code."""
    inputs = run.kinds.total()
    print(f"{inputs} inputs in {run.seconds:.0f} s: {inputs / run.seconds:.0f} inputs/s")
    for heading, counts in (("sent", run.kinds), ("came of it", run.outcomes)):
        print(f"{heading}: " + ", ".join(f"{name} {count}" for name, count in counts.most_common()))
    objects, grown = growth(run.samples)
    print(
        f"memory: {run.samples[-1].resident / MIB:.1f} MiB, in the last three quarters"
        f" {grown / MIB:+.2f} MiB and {objects:+d} objects"
    )
    print(f"exceptions: {len(run.failures)}")
    for failure in run.failures:
        print(f"\n{failure}")
    growing = objects > OBJECTS_AT_MOST or grown > BYTES_AT_MOST
    if growing:
        print(f"it grows: {OBJECTS_AT_MOST} objects and {BYTES_AT_MOST / MIB:.0f} MiB are allowed")
    return 1 if run.failures or growing else 0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="how many (1000000)")
    parser.add_argument("--seed", type=int, default=1, help="of all of them (1)")
    parser.add_argument("--only", type=int, help="the one input of that number")
    options = parser.parse_args(arguments)
    hear_errors()
    with asyncio.Runner(loop_factory=QuickLoop) as runner:
        if options.only is not None:
            return runner.run(only(options.seed, options.only))
        return report(runner.run(fuzz(options.inputs, options.seed)))


async def only(seed: int, number: int) -> int:
    failures: list[str] = []
    async with harness() as tested:
        print(*await one(tested, seed, number, failures))
    print("\n".join(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
