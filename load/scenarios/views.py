"""What tokens, scopes and the public view cost: the same deliveries without them, in turns of one run."""

import itertools
import statistics
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import orjson

from load.comparison import Comparison, Plan, Turn, compare
from load.peers.peer import Serving
from load.product import ScarceProduct, scarce_product
from load.scenario import Bench, Report, Scenario, Table, Verdict
from load.sink import Visit
from load.stack import Gateway, Servers, relay_process, serve_process
from load.tokens import SECRET, subjects

__all__ = ["VIEWS", "measure_views", "report_of"]

FULL: Final = Plan(clients=1000, rates_per_s=(40.0,), turn_s=0.25, rounds=70)
QUICK: Final = Plan(clients=300, rates_per_s=(40.0,), turn_s=0.5, rounds=6)
# The budgets of the project, against the same without views and tokens.
BUDGET_RATIO: Final = 1.03
BUDGET_BYTES: Final = 1024

PLAIN: Final = "no tokens, exact"
AGAIN: Final = "the same again"
SCOPED: Final = "token, scoped exact"
PUBLIC: Final = "public"

Visits = Callable[[ScarceProduct], Iterable[Visit]]


@dataclass(frozen=True)
class _Group:
    """Clients of one kind, who follow a product of their own on the gateway of all; a peer
    (load.peers.peer). Two processes would differ by more than what is looked for."""

    servers: Servers
    gateway: Gateway
    name: str
    number: int
    visits: Visits
    how: str = "make install"
    remark: str = ""

    def installed(self) -> bool:
        return True

    @asynccontextmanager
    async def start(self, _: Path) -> AsyncIterator[Serving]:
        async with scarce_product(self.servers, self.number) as product:

            async def publish(_: bytes) -> None:
                await product.change()

            yield Serving(self.gateway.pid, self.gateway.port, self.visits(product), publish)


def _plain(product: ScarceProduct) -> Iterable[Visit]:
    return itertools.repeat(_visit(product, "exact"))


def _scoped(product: ScarceProduct) -> Iterable[Visit]:
    """Everybody has a token of his own, and all of them the same scope: part of what the topic holds."""
    claims = {
        "vendor_id": product.vendor,
        "locations": [product.location],
        "permissions": ["inv:read:exact", "inv:read:public"],
    }
    for token in subjects(**claims):
        yield _visit(product, "exact", {"Authorization": f"Bearer {token}"})


def _public(product: ScarceProduct) -> Iterable[Visit]:
    return itertools.repeat(_visit(product, "public"))


def _visit(product: ScarceProduct, view: str, headers: dict[str, str] | None = None) -> Visit:
    subscribe = {"type": "subscribe", "topics": [product.topic], "view": view}
    return Visit(say=[orjson.dumps(subscribe)], headers=headers or {})


async def measure_views(servers: Servers, plan: Plan) -> Comparison:
    """Raises StackFailed, SinkFailed, TimeoutError."""
    # What is compared with stands on either side: who comes later finds a larger process.
    kinds = ((PLAIN, _plain), (SCOPED, _scoped), (PUBLIC, _public), (AGAIN, _plain))
    async with (
        relay_process(servers, "relay"),
        serve_process(servers, "replica", relay="off", flush_ms=0, jwt_secret=SECRET) as gateway,
    ):
        groups = [
            _Group(servers, gateway, name, number, visits) for number, (name, visits) in enumerate(kinds)
        ]
        return await compare(groups, [], plan)


def report_of(comparison: Comparison, plan: Plan) -> Report:
    each = {standing.name: _ratios(comparison.turns, standing.name) for standing in comparison.standings}
    memory = {standing.name: standing.bytes_per_connection for standing in comparison.standings}
    rows = []
    for standing in comparison.standings:
        turns = [turn for turn in comparison.turns if turn.name == standing.name]
        rows.append(
            (
                standing.name,
                f"{statistics.median(turn.us_per_frame for turn in turns):.2f}",
                f"{statistics.median(each[standing.name]):.3f}",
                _spread(each[standing.name]),
                f"{standing.wire_bytes:.0f}",
                f"{sum(turn.expected - turn.frames for turn in turns):,}",
                f"{standing.bytes_per_connection / 1024:.2f}",
                f"{standing.connect_us:.0f}",
            )
        )
    head = (
        *("clients", "us/frame", "x without", "the middle half of the rounds"),
        *("bytes/frame", "missing", "KiB/connection", "us/handshake"),
    )
    note = (
        f"One process, {plan.clients:,} clients of a product each, {plan.rounds} rounds of "
        f"{plan.turn_s:g} s. "
        f"Divided by the mean of `{PLAIN}` and `{AGAIN}`, which tell what a difference is worth. "
        "Missing are changes that the relay has read together: they share a frame."
    )
    return Report(
        tables=[Table("A delivery with and without tokens, scopes and the public view", head, rows, note)],
        figures={**asdict(comparison), "ratios": each},
        verdicts=[verdict for name in (SCOPED, PUBLIC) for verdict in _verdicts(name, each[name], memory)],
    )


def _ratios(turns: Sequence[Turn], name: str) -> list[float]:
    """The cost of a delivery by that without tokens and views, the mean of both groups, in each round."""
    costs = {(turn.name, turn.round): turn.us_per_frame for turn in turns}
    return [
        costs[name, number] / statistics.mean((costs[PLAIN, number], costs[AGAIN, number]))
        for number in sorted({turn.round for turn in turns})
    ]


def _spread(each: Sequence[float]) -> str:
    if len(each) < 2:
        return "-"
    low, _, high = statistics.quantiles(each, n=4)
    return f"{low:.3f} to {high:.3f}"


def _verdicts(name: str, each: Sequence[float], memory: dict[str, float]) -> Iterable[Verdict]:
    ratio = statistics.median(each)
    more = memory[name] - statistics.mean((memory[PLAIN], memory[AGAIN]))
    yield Verdict(
        f"{name}: CPU of a delivery within {100 * (BUDGET_RATIO - 1):.0f} % of `{PLAIN}`",
        f"x {ratio:.3f} ({_spread(each)})",
        ratio <= BUDGET_RATIO,
    )
    yield Verdict(
        f"{name}: at most {BUDGET_BYTES} bytes more memory per connection",
        f"{more:+.0f}",
        more <= BUDGET_BYTES,
    )


async def _run(bench: Bench) -> Report:
    plan = QUICK if bench.quick else FULL
    report = report_of(await measure_views(bench.servers, plan), plan)
    return Report(report.tables, report.figures) if bench.quick else report


VIEWS: Final = Scenario(
    "views", "what tokens, scopes and the public view add to a delivery and a connection", _run
)
