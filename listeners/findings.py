from enum import StrEnum
from typing import NamedTuple

__all__ = ["Finding", "Grade", "fail", "fine", "warn"]


class Grade(StrEnum):
    OK = "ok"
    WARNING = "warning"  # it works, but look at it
    FAILURE = "failure"  # it does not work until somebody does what `advice` says


class Finding(NamedTuple):
    """What an examination has found, and what to do about it. One line each, without secrets."""

    grade: Grade
    subject: str
    found: str
    advice: str = ""


def fine(subject: str, found: str) -> Finding:
    return Finding(Grade.OK, subject, found)


def warn(subject: str, found: str, advice: str) -> Finding:
    return Finding(Grade.WARNING, subject, found, advice)


def fail(subject: str, found: str, advice: str) -> Finding:
    return Finding(Grade.FAILURE, subject, found, advice)
