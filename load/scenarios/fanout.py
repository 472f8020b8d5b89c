"""One topic with more and more clients: whether a delivery costs the same, beside a bare loop of send()."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from load.comparison import Plan, compare, ratios
from load.limit import LimitInC, LimitInPython
from load.peers.gateway import GatewayPeer
from load.plot import Plot
from load.processes import raise_file_limit
from load.scenario import Bench, Report, Scenario, Table, Verdict
from load.stack import Servers

__all__ = ["FANOUT", "FanoutResult", "measure_fanout"]

# The same deliveries a second for every number of clients: about half of what a core can do.
DELIVERIES_PER_S: Final = 40_000.0
TURN_S: Final = 2.0
ROUNDS: Final = 3
# A process holds its listening socket and connections to Redis and Postgres as well.
OTHER_FILES: Final = 300
STEPS: Final = (1_000, 5_000, 20_000)
QUICK_STEPS: Final = (300,)
FLAT: Final = 1.2


@dataclass(frozen=True)
class FanoutResult:
    """Medians over the rounds: `cpu_us`, all CPU time of the serving process by frames received; `limit_us`,
    that of the bare loop; `ratio`, the one by the other, round by round."""

    clients: int
    deliveries_per_s: float
    cpu_us: float
    limit_us: float
    ratio: float
    bytes_per_connection: float
    connect_us: float
    missing: int


async def measure_fanout(servers: Servers, clients: int, *, turn_s: float, rounds: int) -> FanoutResult:
    """Raises StackFailed, SinkFailed, TimeoutError."""
    limits = [limit for limit in (LimitInC(), LimitInPython()) if limit.installed()]
    rate = DELIVERIES_PER_S / clients
    plan = Plan(clients=clients, rates_per_s=(rate,), turn_s=turn_s, rounds=rounds)
    comparison = await compare([GatewayPeer(servers), *limits], [], plan)
    names = [limit.name for limit in limits]
    ours = [turn for turn in comparison.turns if turn.name == GatewayPeer.name]
    cheapest = [
        min(turn.us_per_frame for turn in comparison.turns if turn.round == number and turn.name in names)
        for number in range(1, rounds + 1)
    ]
    standing = next(each for each in comparison.standings if each.name == GatewayPeer.name)
    return FanoutResult(
        clients,
        statistics.mean(turn.frames / turn.seconds for turn in ours),
        statistics.median(turn.us_per_frame for turn in ours),
        statistics.median(cheapest),
        statistics.median(ratios(comparison.turns, GatewayPeer.name, names, rate)),
        standing.bytes_per_connection,
        standing.connect_us,
        sum(turn.expected - turn.frames for turn in ours),
    )


async def _run(bench: Bench) -> Report:
    most = raise_file_limit() - OTHER_FILES
    steps = QUICK_STEPS if bench.quick else tuple(min(step, most) for step in STEPS)
    results = [
        await measure_fanout(
            bench.servers, clients, turn_s=1.0 if bench.quick else TURN_S, rounds=2 if bench.quick else ROUNDS
        )
        for clients in steps
    ]
    return Report(
        tables=[_table(results)],
        figures={"steps": [asdict(result) for result in results]},
        verdicts=[] if bench.quick else [_flat(results)],
        plots=[] if bench.quick else [_plot(results)],
    )


def _table(results: Sequence[FanoutResult]) -> Table:
    rows = [
        (
            f"{result.clients:,}",
            f"{result.deliveries_per_s:,.0f}",
            f"{result.cpu_us:.2f}",
            f"{result.limit_us:.2f}",
            f"{result.ratio:.2f}",
            f"{result.missing:,}",
            f"{result.bytes_per_connection / 1024:.1f}",
            f"{result.connect_us:.0f}",
        )
        for result in results
    ]
    head = (
        *("clients", "frames/s", "us/frame", "limit us/frame", "x limit"),
        *("missing", "KiB/connection", "us/handshake"),
    )
    note = "Missing are changes that the relay has read together: they share a frame."
    return Table("One topic with more and more clients, one process", head, rows, note)


def _flat(results: Sequence[FanoutResult]) -> Verdict:
    first, last = results[0], results[-1]
    growth = last.cpu_us / first.cpu_us
    return Verdict(
        f"cost of a delivery from {first.clients:,} to {last.clients:,} clients of one process: flat within "
        f"{100 * (FLAT - 1):.0f} %",
        f"x {growth:.2f} (the bare loop: x {last.limit_us / first.limit_us:.2f})",
        growth <= FLAT,
    )


def _plot(results: Sequence[FanoutResult]) -> Plot:
    return Plot(
        "fanout",
        "CPU time of a delivery, one process",
        "clients of the topic",
        "us a frame",
        {
            "gateway": [(result.clients, result.cpu_us) for result in results],
            "bare loop of send()": [(result.clients, result.limit_us) for result in results],
        },
        logarithmic=True,
    )


FANOUT: Final = Scenario(
    "fanout", "one topic, 1,000 to 20,000 clients: whether a delivery costs the same", _run
)
