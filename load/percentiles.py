import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Summary", "percentile", "summarize"]


@dataclass(frozen=True)
class Summary:
    """Of samples in one unit, whichever that is."""

    samples: int
    p50: float
    p90: float
    p99: float
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
    p50, p90, p99 = (percentile(ordered, percent) for percent in (50, 90, 99))
    return Summary(len(ordered), p50, p90, p99, ordered[-1])
