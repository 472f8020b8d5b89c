import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Summary", "percentile", "summarize", "times_ms"]


@dataclass(frozen=True)
class Summary:
    """Of samples in one unit, whichever that is. Exact: all samples are kept, none is put into a bucket."""

    samples: int
    p50: float
    p90: float
    p99: float
    p999: float
    max: float


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest sample that at least `percent` of all are not above (nearest rank): one that was measured.

    Raises ValueError without samples.
    """
    if not ordered:
        raise ValueError("no samples")
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def summarize(samples: Iterable[float]) -> Summary:
    """Raises ValueError without samples."""
    ordered = sorted(samples)
    p50, p90, p99, p999 = (percentile(ordered, percent) for percent in (50, 90, 99, 99.9))
    return Summary(len(ordered), p50, p90, p99, p999, ordered[-1])


def times_ms(summary: Summary) -> list[str]:
    """p50, p90, p99, p99.9 and the maximum, as cells of a table."""
    values = (summary.p50, summary.p90, summary.p99, summary.p999, summary.max)
    return [f"{value:.1f}" for value in values]
