from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Plot", "draw"]

_INCHES = (8.0, 4.5)


@dataclass(frozen=True)
class Plot:
    """Lines over one axis. `lines`: points (x, y) by the name of the line."""

    name: str
    title: str
    x_title: str
    y_title: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    logarithmic: bool = False  # the axis of x


def draw(plot: Plot, directory: Path) -> Path:
    """Writes `<name>.svg`, the same bytes for the same figures. Its library takes half a second to import."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Without these, every file would carry the time and identifiers drawn by lot.
    mpl.rcParams["svg.hashsalt"] = plot.name
    figure = Figure(figsize=_INCHES, layout="constrained")
    axes = figure.add_subplot()
    for name, points in plot.lines.items():
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name)
    axes.set(title=plot.title, xlabel=plot.x_title, ylabel=plot.y_title)
    if plot.logarithmic:
        axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if len(plot.lines) > 1:
        axes.legend()
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{plot.name}.svg"
    figure.savefig(path, format="svg", metadata={"Date": None})
    return path
