from pathlib import Path

import pytest

from load.plot import Plot, draw

PLOT = Plot("cost", "Cost of a frame", "clients", "us", {"ours": [(1, 2.0), (10, 2.5)], "limit": [(1, 1.0)]})


@pytest.mark.parametrize("logarithmic", [False, True])
def test_a_plot_is_an_svg_that_is_the_same_for_the_same_figures(tmp_path: Path, logarithmic: bool) -> None:
    plot = Plot(PLOT.name, PLOT.title, PLOT.x_title, PLOT.y_title, PLOT.lines, logarithmic)
    first = draw(plot, tmp_path / "first").read_bytes()
    assert first == draw(plot, tmp_path / "second").read_bytes()
    assert b"</svg>" in first
