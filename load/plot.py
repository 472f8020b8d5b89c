from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pygal
from pygal.style import Style

__all__ = ["Plot", "draw"]

_STYLE = Style(background="white", plot_background="white", title_font_size=18, label_font_size=12)


@dataclass(frozen=True)
class Plot:
    """Lines over one axis. `lines`: points (x, y) by the name of the line."""

    name: str
    title: str
    x_title: str
    y_title: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    logarithmic: bool = False


def draw(plot: Plot, directory: Path) -> Path:
    """Writes `<name>.svg`; it refers to nothing outside of itself."""
    chart = pygal.XY(
        pygal.Config(js=[], show_legend=len(plot.lines) > 1, human_readable=True, dots_size=3),
        style=_STYLE,
        title=plot.title,
        x_title=plot.x_title,
        y_title=plot.y_title,
        logarithmic=plot.logarithmic,
        width=800,
        height=450,
    )
    for name, points in plot.lines.items():
        chart.add(name, list(points))
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{plot.name}.svg"
    path.write_bytes(chart.render(disable_xml_declaration=True).encode())
    return path
