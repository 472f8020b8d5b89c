import random

from gateway.auth.expiry import WARNING_S, ExpiryHeap
from protocol.principal import Principal


def until(end: float | None, name: str = "s") -> Principal:
    return Principal(name, frozenset(), expires_at=end)


def happens(heap: ExpiryHeap[str], now: float) -> list[tuple[str, bool]]:
    return [(due.holder, due.ended) for due in heap.due(now)]


def test_a_warning_and_then_the_end() -> None:
    heap: ExpiryHeap[str] = ExpiryHeap()
    heap.hold("a", until(1000), 0)
    assert heap.next_at() == 1000 - WARNING_S
    assert happens(heap, 939.9) == []
    assert happens(heap, 940) == [("a", False)]
    assert happens(heap, 999.9) == []
    assert happens(heap, 1000) == [("a", True)]
    assert happens(heap, 2000) == []
    assert len(heap) == 0


def test_the_warning_is_at_once_where_less_is_left() -> None:
    heap: ExpiryHeap[str] = ExpiryHeap()
    heap.hold("a", until(1010), 1000)
    assert happens(heap, 1000) == [("a", False)]


def test_who_was_let_in_within_the_leeway_stays_that_long() -> None:
    heap: ExpiryHeap[str] = ExpiryHeap(leeway_s=5)
    heap.hold("a", until(1000), 1003)
    assert happens(heap, 1003) == [("a", False)]
    assert happens(heap, 1004.9) == []
    assert happens(heap, 1005) == [("a", True)]


def test_renewed_credentials_replace_the_old_ones() -> None:
    heap: ExpiryHeap[str] = ExpiryHeap()
    heap.hold("a", until(1000), 0)
    assert happens(heap, 950) == [("a", False)]
    heap.hold("a", until(2000), 950)
    assert happens(heap, 1500) == []
    assert happens(heap, 1940) == [("a", False)]
    assert happens(heap, 2000) == [("a", True)]


def test_who_has_left_is_not_told() -> None:
    heap: ExpiryHeap[str] = ExpiryHeap()
    heap.hold("a", until(1000), 0)
    heap.hold("b", until(1000), 0)
    heap.forget("a")
    heap.forget("never seen")
    assert happens(heap, 1000) == [("b", False), ("b", True)]


def test_credentials_without_an_end() -> None:
    heap: ExpiryHeap[str] = ExpiryHeap()
    heap.hold("a", until(None), 0)
    assert heap.next_at() == float("inf")


def test_memory_follows_who_is_there_and_not_who_was() -> None:
    heap: ExpiryHeap[int] = ExpiryHeap()
    for holder in range(20_000):
        heap.hold(holder, until(10_000 + holder), 0)
        if holder >= 10:
            heap.forget(holder - 10)
    assert len(heap) == 10
    assert len(heap._heap) <= 64 + 2 * 10
    for _ in range(5000):  # and not how often they renew
        heap.hold(19_995, until(99_999), 0)
    assert len(heap._heap) <= 64 + 2 * 10
    assert {holder for holder, _ in heap.held()} == set(range(19_990, 20_000))


def test_everybody_is_told_at_the_right_time_whatever_happens() -> None:
    """Against a model that looks through everybody every time."""
    source = random.Random(7)
    heap: ExpiryHeap[int] = ExpiryHeap()
    ends: dict[int, tuple[float, bool]] = {}
    for now in range(2000):
        for _ in range(3):
            holder = source.randrange(50)
            if source.random() < 0.7:
                end = now + 1.0 + source.randrange(200)
                heap.hold(holder, until(end), now)
                ends[holder] = (end, False)
            else:
                heap.forget(holder)
                ends.pop(holder, None)
        expected = set()
        for known, (end, warned) in list(ends.items()):
            if not warned and end - WARNING_S <= now:
                expected.add((known, False))
                ends[known] = (end, True)
            if end <= now:
                expected.add((known, True))
                del ends[known]
        found = [(due.holder, due.ended) for due in heap.due(now)]
        assert set(found) == expected
        assert len(found) == len(expected)
