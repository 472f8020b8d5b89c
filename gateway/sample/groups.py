from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["one_error"]


@contextmanager
def one_error() -> Iterator[None]:
    """Raises the first error of a task group by itself: a person at a terminal is told one reason."""
    try:
        yield
    except BaseExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from group
