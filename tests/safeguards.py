from typing import Final, NamedTuple

__all__ = ["SAFEGUARDS", "Mutation"]


class Mutation(NamedTuple):
    """What takes a safeguard away, and the quickest tests that notice."""

    safeguard: str
    file: str
    old: str  # there exactly once
    new: str
    tests: tuple[str, ...]  # arguments of pytest


SAFEGUARDS: Final[tuple[Mutation, ...]] = ()
