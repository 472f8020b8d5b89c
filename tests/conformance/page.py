"""The sections of docs/conformance.md that tests write, or hold to what they find."""

from pathlib import Path
from typing import Final

__all__ = ["PAGE", "section", "with_section"]

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"


def section(text: str, name: str) -> str:
    """What stands between the marks of that name. Raises ValueError where there are none."""
    begin, end = _marks(name)
    return text[text.index(begin) + len(begin) : text.index(end)].strip("\n")


def with_section(text: str, name: str, content: str) -> str:
    """As `section`."""
    begin, end = _marks(name)
    return f"{text[: text.index(begin)]}{begin}\n{content}\n{text[text.index(end) :]}"


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name} -->", f"<!-- end of {name} -->"
