"""What the ledger of a run says: the faults of each kind, how soon noticed, how soon all was well again."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

__all__ = ["AT_LEAST", "Kind", "Report", "read_report", "table"]

# So many faults a run of all fault tests injects.
AT_LEAST: Final = 200


class Kind(NamedTuple):
    """All faults of one kind. Times in s; detection only of those that were noticed before they had ended."""

    name: str
    times: int
    detection_s: Sequence[float]
    recovery_s: Sequence[float]


class Report(NamedTuple):
    kinds: Sequence[Kind]
    tallies: dict[str, float]

    @property
    def faults(self) -> int:
        return sum(kind.times for kind in self.kinds)


def read_report(directory: Path) -> Report:
    """Reads what all processes of a run have written."""
    detections: defaultdict[str, list[float]] = defaultdict(list)
    recoveries: defaultdict[str, list[float]] = defaultdict(list)
    tallies: Counter[str] = Counter()
    for line in _lines(directory):
        if "tally" in line:
            tallies[line["tally"]] += line["count"]
            continue
        recoveries[line["kind"]].append(line["recovery_s"])
        if line["detection_s"] is not None:
            detections[line["kind"]].append(line["detection_s"])
    kinds = [
        Kind(name, len(seconds), sorted(detections[name]), sorted(seconds))
        for name, seconds in sorted(recoveries.items())
    ]
    return Report(kinds, dict(tallies))


def _lines(directory: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(directory.glob("*.jsonl")):
        yield from map(orjson.loads, file.read_bytes().splitlines())


def table(report: Report) -> str:
    """As Markdown: times in s, the median and the worst."""
    rows = ["| fault | times | noticed after (s) | all well again after (s) |", "|---|---|---|---|"]
    rows += [
        f"| {kind.name} | {kind.times} | {_times(kind.detection_s)} | {_times(kind.recovery_s)} |"
        for kind in report.kinds
    ]
    everything = [s for kind in report.kinds for s in kind.recovery_s]
    noticed = [s for kind in report.kinds for s in kind.detection_s]
    rows.append(f"| all | {report.faults} | {_times(sorted(noticed))} | {_times(sorted(everything))} |")
    tallies = (f"{name}: {count:,.0f}" for name, count in sorted(report.tallies.items()))
    return "\n".join([*rows, "", *tallies])


def _times(seconds: Iterable[float]) -> str:
    """`median / worst`."""
    ordered = list(seconds)
    return f"{ordered[len(ordered) // 2]:.1f} / {ordered[-1]:.1f}" if ordered else ""
