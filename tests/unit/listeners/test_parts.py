from hypothesis import given
from hypothesis import strategies as st

from listeners.parts import MAX_PART_BYTES, MAX_PART_ITEMS, LogItem, apply_parts, merge_parts
from protocol.envelope import encode_item
from protocol.items import Item

sizes = st.lists(st.integers(2, 30_000), max_size=60) | st.lists(st.integers(2, 50), max_size=500)


def items(sizes: list[int]) -> list[Item]:
    return [Item(f"stock:P{n}:L1", n, False, b"x" * size) for n, size in enumerate(sizes)]


@given(sizes)
def test_merge_parts_keep_everything_in_order_and_small(sizes: list[int]) -> None:
    parts = list(merge_parts(items(sizes)))
    assert [item for part in parts for item in part] == items(sizes)
    for part in parts:
        assert 0 < len(part) <= MAX_PART_ITEMS
        assert sum(len(item.key) + len(item.body) for item in part) <= MAX_PART_BYTES


@given(st.lists(sizes, max_size=5))
def test_apply_parts_keep_everything_in_order_and_small(topics: list[list[int]]) -> None:
    changes = {f"product:{n}": [LogItem(item, 7) for item in items(sizes)] for n, sizes in enumerate(topics)}
    together: dict[str, list[LogItem]] = {}
    for part in apply_parts(changes):
        assert 0 < sum(len(some) for _, some in part) <= MAX_PART_ITEMS
        for topic, some in part:
            assert some
            together.setdefault(topic, []).extend(some)
            message = b"\n".join([b"D" * 150, *(encode_item(changed.item) for changed in some)])
            assert len(message) <= MAX_PART_BYTES
    assert together == {topic: some for topic, some in changes.items() if some}


def test_an_item_above_the_limit_goes_alone() -> None:
    small, large = items([10, MAX_PART_BYTES])
    assert list(merge_parts([small, large, small])) == [[small], [large], [small]]
    changes = [LogItem(item, 1) for item in (small, large, small)]
    assert [[some for _, some in part] for part in apply_parts({"product:A": changes})] == [
        [changes[:1]],
        [changes[1:2]],
        [changes[2:]],
    ]
