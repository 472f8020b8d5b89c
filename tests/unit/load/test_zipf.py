import random
from collections import Counter

import pytest

from load.zipf import Zipf


def test_the_first_comes_most_and_the_second_half_as_often() -> None:
    zipf = Zipf("abc", random.Random(1))
    drawn = Counter(zipf.one() for _ in range(11_000))
    assert drawn["a"] == pytest.approx(6_000, rel=0.05)
    assert drawn["b"] == pytest.approx(3_000, rel=0.05)
    assert drawn["c"] == pytest.approx(2_000, rel=0.08)


def test_several_are_different_ones() -> None:
    zipf = Zipf(list(range(30)), random.Random(1))
    assert len(set(zipf.several(20))) == 20
    assert sorted(zipf.several(30)) == list(range(30))


def test_there_are_not_more_than_there_are() -> None:
    with pytest.raises(ValueError, match="3 things"):
        Zipf("abc", random.Random(1)).several(4)
