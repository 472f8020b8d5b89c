"""What a scenario of the benchmark is, and what it reports: tables for people, figures for machines."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from load.plot import Plot
from load.stack import Servers

__all__ = ["Bench", "Report", "Scenario", "Table", "Verdict"]


@dataclass(frozen=True)
class Bench:
    """What a scenario runs on. `quick`: a fraction of the time and size; its figures are rough."""

    servers: Servers
    quick: bool = False


@dataclass(frozen=True)
class Table:
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    """A budget of the project and what was measured of it, in the same words and units."""

    budget: str
    measured: str
    met: bool


@dataclass(frozen=True)
class Report:
    """`figures` hold everything that the tables say, and more, as JSON can hold it."""

    tables: Sequence[Table]
    figures: Mapping[str, Any] = field(default_factory=dict)
    verdicts: Sequence[Verdict] = ()
    plots: Sequence[Plot] = ()


@dataclass(frozen=True)
class Scenario:
    """`in_quick`: whether the short run includes it, which prints the main ratios within two minutes."""

    name: str
    purpose: str
    run: Callable[[Bench], Awaitable[Report]]
    in_quick: bool = False
