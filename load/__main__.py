"""`python -m load`: starts servers and gateways of its own, measures, and prints figures and machine."""

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson
import uvloop

from load.line_worker import WorkerEnded
from load.machine import describe_machine
from load.plot import draw
from load.processes import raise_file_limit
from load.report import machine_text, report_text, verdicts_text
from load.scenario import Bench, Report, Scenario
from load.scenarios import SCENARIOS
from load.sink import SinkFailed
from load.stack import StackFailed, start_servers

__all__ = ["main"]

PRODUCTS: Final = 2000
LOCATIONS: Final = 5


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)


async def _run(scenarios: Sequence[Scenario], *, quick: bool, plots: Path | None) -> dict[str, Any]:
    """The figures of all, by name. Each scenario has servers that have seen no other."""
    figures: dict[str, Any] = {}
    reports: list[Report] = []
    for scenario in scenarios:
        began = time.monotonic()
        async with start_servers(products=PRODUCTS, locations=LOCATIONS) as servers:
            if not figures:
                figures["machine"] = machine = await describe_machine(servers)
                _say(machine_text(machine))
            _say(f"## {scenario.name}: {scenario.purpose}")
            report = await scenario.run(Bench(servers, quick))
        reports.append(report)
        figures[scenario.name] = report.figures
        _say(report_text(report))
        print(f"\n({time.monotonic() - began:.0f} s)", flush=True)
        if plots is not None:
            for plot in report.plots:
                draw(plot, plots)
    if verdicts := [verdict for report in reports for verdict in report.verdicts]:
        _say(verdicts_text(verdicts))
        figures["budgets"] = [
            {"budget": verdict.budget, "measured": verdict.measured, "met": verdict.met}
            for verdict in verdicts
        ]
    return figures


def _chosen(parser: argparse.ArgumentParser, names: Sequence[str], *, quick: bool) -> list[Scenario]:
    by_name = {scenario.name: scenario for scenario in SCENARIOS}
    if unknown := set(names) - by_name.keys():
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    if names:
        return [by_name[name] for name in names]
    return [scenario for scenario in SCENARIOS if scenario.in_quick or not quick]


def main(arguments: Sequence[str]) -> int:
    listed = "\n".join(f"  {scenario.name:<18}{scenario.purpose}" for scenario in SCENARIOS)
    parser = argparse.ArgumentParser(
        prog="python -m load",
        description=__doc__,
        epilog=f"scenarios:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="which (all of them)")
    parser.add_argument("--quick", action="store_true", help="two minutes, rough figures, the main ratios")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--plots", type=Path, metavar="DIRECTORY", help="draw plots there, as SVG")
    options = parser.parse_args(arguments)
    scenarios = _chosen(parser, options.scenarios, quick=options.quick)
    raise_file_limit()
    # Whichever way it is stopped, it stops what it has started: the runner turns SIGINT into a cancellation,
    # if that was not inherited as ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            figures = runner.run(_run(scenarios, quick=options.quick, plots=options.plots))
    except (StackFailed, SinkFailed, WorkerEnded) as error:
        print(f"load: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("load: interrupted", file=sys.stderr)
        return 1
    if options.json:
        options.json.write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2))
    return 0


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
