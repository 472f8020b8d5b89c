from typing import NamedTuple

__all__ = ["Mutation"]


class Mutation(NamedTuple):
    """What takes a safeguard away, and the quickest tests that notice."""

    safeguard: str
    file: str
    old: str  # there exactly once
    new: str
    tests: tuple[str, ...]  # files, classes or functions, as pytest names them
