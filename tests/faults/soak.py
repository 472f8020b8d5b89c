"""`make soak MINUTES=10`: everything random for as long as you like.

Writers, clients that come, go, resume and change their topics, and a fault every few seconds. Ends with the
table of faults, the memory of the replicas that were not killed with its fitted slope, and fails for a wrong
copy, a step back, a copy trusted while it was too old, a mismatch that the anti-entropy sweep has found, or
memory that grows.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import linear_regression
from typing import Final, NamedTuple

import uvloop

from protocol.principal import View
from tests.faults.client import Follower
from tests.faults.ledger import LEDGER, injected, tally
from tests.faults.report import read_report, table
from tests.faults.rig import PUBLIC_TOPICS, TOPICS, Replica, Rig, stack
from tests.faults.test_state_machine import FAULTS, MORE_TOPICS, kill
from tests.support.memory import resident_bytes

__all__ = ["main"]

REPLICAS: Final = 3
RESTLESS: Final = 20  # clients
SAMPLE_S: Final = 2.0
# The first half of a run fills caches, pools and the allocator's arenas; what counts is the second one.
WARM_UP: Final = 0.5
# A fault that follows at once finds what the one before has left behind: a link that is silent yet unnoticed.
AT_ONCE: Final = 0.5
# A leak of this much would double a replica's memory within two days.
GROWTH_KIB_PER_MIN: Final = 40.0


class Sample(NamedTuple):
    minutes: float
    kib: float


async def be_restless(follower: Follower, chance: random.Random) -> None:
    """Comes, goes and changes its topics, at random."""
    topics = PUBLIC_TOPICS if follower.view is View.PUBLIC else MORE_TOPICS
    while True:
        await asyncio.sleep(2 * chance.random())
        what = chance.random()
        if what < 0.15:
            follower.drop()
        elif what < 0.6:
            await follower.ask_for(chance.choice(topics))
        elif len(follower.topics) > 1:
            await follower.leave(chance.choice(follower.topics))


async def watch_memory(replicas: Sequence[Replica], samples: dict[str, list[Sample]]) -> None:
    began = time.monotonic()
    while True:
        for replica in replicas:
            minutes = (time.monotonic() - began) / 60
            samples.setdefault(replica.name, []).append(Sample(minutes, resident_bytes(replica.pid) / 1024))
        await asyncio.sleep(SAMPLE_S)


async def break_something(rig: Rig, chance: random.Random) -> None:
    name = chance.choice(sorted(FAULTS))
    # Only the last one is killed: the others keep their memory.
    victim = rig.replicas[-1] if FAULTS[name] is kill else chance.choice(rig.replicas)
    with injected(f"soak: {name}") as fault:
        await FAULTS[name](rig, victim)
        fault.ended()
        await rig.recovered(fault)


async def soak(minutes: float, seed: int) -> list[str]:
    """What went wrong, a line each. Raises AssertionError for what the contract rules out."""
    chance = random.Random(seed)
    samples: dict[str, list[Sample]] = {}
    async with stack(REPLICAS, seed=seed, verify_s=15) as rig, asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(watch_memory(rig.replicas[:-1], samples))]
        for number in range(RESTLESS):
            view = View.PUBLIC if number % 4 == 0 else View.EXACT
            topics = chance.sample(PUBLIC_TOPICS if view is View.PUBLIC else TOPICS, 2)
            follower = rig.follow(rig.replicas, topics, view)
            running.append(tasks.create_task(be_restless(follower, random.Random(f"{seed} {number}"))))
        ends = time.monotonic() + minutes * 60
        while time.monotonic() < ends:
            if chance.random() > AT_ONCE:
                await asyncio.sleep(chance.uniform(0.5, 4))
            await break_something(rig, chance)
        for task in running:
            task.cancel()
        problems = [await _mismatches(replica) for replica in rig.replicas]
        tally("transactions written", rig.shop.written)
    problems += [grows(name, measured) for name, measured in samples.items()]
    return [problem for problem in problems if problem]


async def _mismatches(replica: Replica) -> str:
    mismatches = await replica.metric("gateway_mismatches_total") or 0
    verified = await replica.metric("gateway_verified_total") or 0
    tally("topics verified by the sweep", verified)
    tally("mismatches found by the sweep", mismatches)
    return f"{replica.name}: the sweep has found {mismatches:g} mismatches" if mismatches else ""


def grows(name: str, samples: Sequence[Sample]) -> str:
    """Prints the fitted slopes of both halves; a line if that of the second one is too steep."""
    middle = round(len(samples) * WARM_UP)
    first, second = _slope(samples[:middle]), _slope(samples[middle:])
    sizes = ", ".join(f"{samples[at].kib / 1024:.1f}" for at in (0, middle, -1))
    print(f"{name}: {sizes} MiB; fitted slope {first:+.1f}, then {second:+.1f} KiB a minute")
    return f"{name} grows by {second:.1f} KiB a minute" if second > GROWTH_KIB_PER_MIN else ""


def _slope(samples: Sequence[Sample]) -> float:
    return linear_regression([s.minutes for s in samples], [s.kib for s in samples]).slope


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None, help="of an earlier run, to replay it; a new one")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    print(f"--seed {seed} replays this run", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        os.environ[LEDGER] = directory
        problems = uvloop.run(soak(options.minutes, seed))
        print(table(read_report(Path(directory))))
    print("\n".join(problems) or f"=== {options.minutes:g} minutes, nothing lost, stale or growing ===")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
