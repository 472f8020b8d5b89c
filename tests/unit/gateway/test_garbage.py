import gc
import weakref
from collections.abc import Iterator

import pytest

from gateway.garbage import keep_garbage_small

# Memory may rise by this much garbage; left to itself, CPython waits for 70,000 objects.
CYCLES = 7000


class Old:
    """Refers to itself, as an exception does whose frame holds it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def leave_garbage() -> "weakref.ref[Old]":
    """What has become old before it became garbage."""
    old = Old()
    for generation in (0, 1):
        gc.collect(generation)
    return weakref.ref(old)


def test_what_was_old_is_found_though_nothing_else_becomes_old() -> None:
    keep_garbage_small()
    garbage = leave_garbage()
    for _ in range(CYCLES):
        Old()
    assert garbage() is None


def test_nothing_of_the_start_is_counted() -> None:
    before = gc.get_freeze_count()
    keep_garbage_small()
    assert gc.get_freeze_count() - before > 10_000
    assert len(gc.get_objects(2)) < 1000
