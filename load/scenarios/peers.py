"""The gateway beside the limit and beside other servers: all are sent the same, in turns of one run."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from load.comparison import Comparison, Plan, compare, ratios
from load.limit import LimitInC, LimitInPython
from load.peers import PEERS
from load.peers.gateway import GatewayPeer
from load.peers.nchan import Nchan
from load.peers.peer import Peer
from load.scenario import Bench, Report, Scenario, Table, Verdict

__all__ = ["FULL", "PEERS_SCENARIO", "QUICK", "report_of", "run_comparison"]

FULL: Final = Plan(clients=1000, rates_per_s=(40.0, 100.0), turn_s=1.0, rounds=5)
QUICK: Final = Plan(clients=300, rates_per_s=(40.0,), turn_s=1.0, rounds=3)
# The project's budgets of CPU time for a delivery, by that of another.
LIMIT_BUDGET: Final = 1.5
NCHAN_BUDGET: Final = 1.0


async def run_comparison(bench: Bench, others: Sequence[Peer], plan: Plan) -> Report:
    """The limit, the gateway, and those of `others` that are installed."""
    limits = [limit for limit in (LimitInC(), LimitInPython()) if limit.installed()]
    gateway = GatewayPeer(bench.servers)
    installed = [peer for peer in others if peer.installed()]
    missing = [peer for peer in others if not peer.installed()]
    comparison = await compare([gateway, *limits], installed, plan)
    names = [limit.name for limit in limits]
    return report_of(comparison, [*limits, gateway, *installed], names, missing, plan)


async def _run(bench: Bench) -> Report:
    if bench.quick:
        return await run_comparison(bench, [], QUICK)
    return await run_comparison(bench, PEERS, FULL)


def report_of(
    comparison: Comparison, peers: Sequence[Peer], limits: Sequence[str], missing: Sequence[Peer], plan: Plan
) -> Report:
    """`limits`: the names of those that the others are divided by, the cheapest of each round.

    Rows have the order of `peers`.
    """
    order = [peer.name for peer in peers]
    by_order = sorted(comparison.standings, key=lambda standing: order.index(standing.name))
    comparison = replace(comparison, standings=by_order)
    deliveries = [_deliveries(comparison, limits, rate, plan) for rate in plan.rates_per_s]
    idle = _idle(comparison, peers, missing)
    figures: dict[str, Any] = {
        **asdict(comparison),
        "ratios": {
            f"{rate:g}": {
                standing.name: ratios(comparison.turns, standing.name, limits, rate)
                for standing in comparison.standings
            }
            for rate in plan.rates_per_s
        },
        "missing": [peer.name for peer in missing],
    }
    return Report([*deliveries, idle], figures, _verdicts(comparison, limits, plan))


def _deliveries(comparison: Comparison, limits: Sequence[str], rate: float, plan: Plan) -> Table:
    rows = []
    for standing in comparison.standings:
        turns = [turn for turn in comparison.turns if (turn.name, turn.rate_per_s) == (standing.name, rate)]
        each = ratios(comparison.turns, standing.name, limits, rate)
        frames, expected = sum(turn.frames for turn in turns), sum(turn.expected for turn in turns)
        rows.append(
            (
                standing.name,
                f"{statistics.median(turn.us_per_frame for turn in turns):.2f}",
                f"{statistics.median(each):.2f}",
                " ".join(f"{value:.2f}" for value in each),
                f"{frames:,}",
                f"{expected - frames:,}",
                f"{sum(turn.cpu_s for turn in turns) / sum(turn.seconds for turn in turns):.2f}",
                f"{sum(turn.sink_cpu_s for turn in turns) / frames * 1e6:.2f}",
            )
        )
    title = f"{plan.clients:,} clients of each, {rate:g} publishes/s, {comparison.payload_bytes} bytes"
    head = ("server", "us/frame", "x limit", "of each round", "frames", "missing", "cores", "sink us/frame")
    return Table(title, head, rows)


def _idle(comparison: Comparison, peers: Sequence[Peer], missing: Sequence[Peer]) -> Table:
    rows = [
        (
            standing.name,
            f"{standing.bytes_per_connection / 1024:.1f}",
            f"{standing.connect_us:.0f}",
            f"{standing.wire_bytes:.0f}",
            standing.processes,
        )
        for standing in comparison.standings
    ]
    head = ("server", "KiB/connection", "us/handshake", "bytes/delivery", "processes")
    notes = [
        *(f"{peer.name}: {peer.remark}." for peer in peers),
        *(f"{peer.name}: not installed: {peer.how}." for peer in missing),
        *(f"{name}: {said}" for name, said in comparison.failed),
    ]
    return Table(
        "An idle connection with one subscription", head, rows, "\n".join(f"- {note}" for note in notes)
    )


def _verdicts(comparison: Comparison, limits: Sequence[str], plan: Plan) -> list[Verdict]:
    """Of the rate at which the gateway does worst."""

    def worst(bases: Sequence[str]) -> float:
        each = (ratios(comparison.turns, GatewayPeer.name, bases, rate) for rate in plan.rates_per_s)
        return max(map(statistics.median, each))

    by_limit = worst(limits)
    verdicts = [
        Verdict(
            f"CPU time of a delivery: at most {LIMIT_BUDGET:g} x the bare send() loop",
            f"{by_limit:.2f} x",
            by_limit <= LIMIT_BUDGET,
        ),
    ]
    if any(standing.name == Nchan.name for standing in comparison.standings):
        by_nchan = worst([Nchan.name])
        verdicts.append(
            Verdict(
                f"CPU time of a delivery: at most {NCHAN_BUDGET:g} x nchan",
                f"{by_nchan:.2f} x",
                by_nchan <= NCHAN_BUDGET,
            )
        )
    return verdicts


PEERS_SCENARIO: Final = Scenario(
    "peers", "the gateway beside a bare loop of send() and beside other servers", _run, in_quick=True
)
