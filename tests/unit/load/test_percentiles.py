import pytest
from hypothesis import given
from hypothesis import strategies as st

from load.percentiles import Summary, percentile, summarize

SAMPLES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200)


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (50.5, 51), (90, 90), (99, 99), (100, 100)]
)
def test_a_percentile_is_the_nearest_rank(percent: float, expected: int) -> None:
    assert percentile(range(1, 101), percent) == expected


def test_one_sample_is_every_percentile() -> None:
    assert summarize([7.0]) == Summary(1, 7.0, 7.0, 7.0, 7.0, 7.0)


def test_the_order_of_the_samples_does_not_matter() -> None:
    assert summarize([3, 1, 2]) == Summary(3, 2, 3, 3, 3, 3)


def test_no_samples_have_no_percentiles() -> None:
    with pytest.raises(ValueError, match="no samples"):
        summarize([])


@given(SAMPLES, st.floats(0, 100))
def test_enough_samples_are_not_above_a_percentile(samples: list[float], percent: float) -> None:
    value = percentile(sorted(samples), percent)
    assert value in samples
    assert sum(sample <= value for sample in samples) >= percent / 100 * len(samples) - 1e-9
