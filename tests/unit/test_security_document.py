"""SECURITY.md says by which test something is met, and in which module: they exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "SECURITY.md").read_text()
TESTS = sorted(set(re.findall(r"`(tests/[^`]+)`", TEXT)))
FILES = sorted(set(re.findall(r"`((?:gateway|protocol|listeners|load)/[^`]+)`", TEXT)))
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line[:2] == "| "
]


def names(file: Path) -> set[str]:
    """Of a module's tests and classes, with `::` between a class and what is in it."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef):
            inner = [
                each.name for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
            ]
            found |= {node.name, *(f"{node.name}::{name}" for name in inner)}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
    return found


@pytest.mark.parametrize("test", TESTS)
def test_each_named_test_exists(test: str) -> None:
    path, _, name = test.partition("::")
    assert "test_" in path
    held = names(ROOT / path)
    assert any(each.startswith(("test_", "Test")) for each in held)
    assert not name or name in held


@pytest.mark.parametrize("file", FILES)
def test_each_named_module_exists(file: str) -> None:
    assert (ROOT / file).is_file()


def test_every_requirement_of_the_chapter_is_answered_once() -> None:
    wanted = {"4.1": 5, "4.2": 5, "4.3": 2, "4.4": 4}
    answered = re.findall(r"\b4\.\d\.\d\b", " ".join(row[0] for row in ROWS if row[0].startswith("4.")))
    assert sorted(answered) == [f"{part}.{n}" for part, last in wanted.items() for n in range(1, last + 1)]


def test_what_is_met_names_a_test() -> None:
    """What does not is said to be not met, not to apply, or to be somebody else's."""
    for row in ROWS:
        if row[-1] == "-":
            assert re.search(r"not met|do not apply|by the proxy|there is none", " ".join(row)), row
