from pathlib import Path

import pytest

from tests.mutations import ROOT, first_failure, mutated
from tests.safeguards import SAFEGUARDS, Mutation


@pytest.mark.parametrize("mutation", SAFEGUARDS, ids=lambda mutation: mutation.safeguard)
def test_each_can_be_taken_away_and_has_tests(mutation: Mutation) -> None:
    """`make mutations` sees whether they notice; this, in no time, that a line has been written anew."""
    text = (ROOT / mutation.file).read_text()
    assert mutated(text, mutation) != text
    for name in mutation.tests:
        file, *path = name.split("::")
        source = Path(ROOT, file).read_text()
        assert all(part in source for part in path), name


def test_a_line_that_is_not_there_once_is_an_error() -> None:
    mutation = Mutation("a gate", "gate.lua", "if newer then", "if true then", ())
    assert mutated("if newer then x", mutation) == "if true then x"
    for text in ("", "if newer then if newer then"):
        with pytest.raises(LookupError, match=r"gate\.lua"):
            mutated(text, mutation)


@pytest.mark.parametrize(
    ("output", "name"),
    [
        ("x\nFAILED tests/unit/test_a.py::T::test_b[1 2] - assert 1 == 2\n", "test_a.py::T::test_b[1 2]"),
        ("FAILED tests/unit/test_a.py::test_b\n", "test_a.py::test_b"),
        ("ERROR tests/unit/test_a.py::test_b - OSError\n", "test_a.py::test_b"),
        ("2 passed\n", ""),
    ],
)
def test_the_test_that_notices_is_named(output: str, name: str) -> None:
    assert first_failure(output) == name
