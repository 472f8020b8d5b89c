"""`make bench`: starts a stack of its own, measures, and prints the figures and the machine they are from."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import uvloop

from load.fanout import FanoutReport, measure_fanout
from load.latency import LatencyReport, measure_latency
from load.machine import describe_machine
from load.processes import raise_file_limit
from load.report import fanout_text, latency_text, machine_text, shop_text
from load.shop_side import ShopSideReport, measure_shop_side
from load.stack import Servers, StackFailed, relay_process, serve_process, start_servers

__all__ = ["main"]

PARTS: Final = ("latency", "fanout", "shop")
PRODUCTS: Final = 2000
LOCATIONS: Final = 5


@dataclass(frozen=True)
class Plan:
    """How long and how much; times in s, rates in changes a second."""

    latency_rates: tuple[float, ...] = (10, 100)
    latency_s: float = 20
    clients: int = 1000
    fanout_rates: tuple[float, ...] = (10, 40, 120)
    fanout_s: float = 5
    turns: int = 5
    turn_s: float = 1.5


QUICK: Final = Plan(
    latency_rates=(100,), latency_s=5, clients=300, fanout_rates=(20,), fanout_s=2, turns=2, turn_s=1
)


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)


async def _latency(servers: Servers, plan: Plan) -> list[LatencyReport]:
    """With every setting at its default, in the one process that most people run."""
    reports = []
    async with serve_process(servers, "gateway") as gateway:
        for rate in plan.latency_rates:
            report = await measure_latency(servers, gateway, rate_per_s=rate, seconds=plan.latency_s)
            _say(latency_text(report))
            reports.append(report)
    return reports


async def _fanout(servers: Servers, plan: Plan) -> list[FanoutReport]:
    """The relay has a process of its own, so that what is measured is delivery; nothing is coalesced."""
    async with (
        relay_process(servers, "relay"),
        serve_process(servers, "replica", relay="off", flush_ms=0) as gateway,
    ):
        rates = plan.fanout_rates
        report = await measure_fanout(
            servers, gateway, clients=plan.clients, rates_per_s=rates, seconds=plan.fanout_s
        )
    _say(fanout_text(report))
    return [report]


async def _shop(servers: Servers, plan: Plan) -> list[ShopSideReport]:
    """The triggers by themselves, with and without waiting for the disk; then with a relay that reads."""
    turns: Any = {"turns": plan.turns, "seconds": plan.turn_s}
    reports = []
    for commit in ("on", "off"):
        reports.append(await measure_shop_side(servers, synchronous_commit=commit, relay_pid=None, **turns))
        _say(shop_text(reports[-1]))
    async with relay_process(servers, "relay") as pid:
        reports.append(await measure_shop_side(servers, synchronous_commit="on", relay_pid=pid, **turns))
    _say(shop_text(reports[-1]))
    return reports


async def _bench(plan: Plan, parts: Sequence[str]) -> dict[str, Any]:
    async with start_servers(products=PRODUCTS, locations=LOCATIONS) as servers:
        machine = await describe_machine(servers)
        _say(machine_text(machine))
        figures: dict[str, Any] = {"machine": machine}
        # Latency first, on servers that have done nothing yet.
        for name, part in (("latency", _latency), ("fanout", _fanout), ("shop", _shop)):
            if name in parts:
                figures[name] = [asdict(report) for report in await part(servers, plan)]
    return figures


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m load.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (all of them)")
    parser.add_argument("--quick", action="store_true", help="a short run: figures are rough")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    raise_file_limit()
    # Whichever way it is stopped, it stops what it has started: the runner turns SIGINT into a cancellation,
    # if that was not inherited as ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            figures = runner.run(_bench(QUICK if options.quick else Plan(), options.parts or PARTS))
    except StackFailed as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 1
    if options.json:
        options.json.write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
