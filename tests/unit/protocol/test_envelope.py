from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.envelope import (
    Beat,
    Changed,
    MalformedEnvelope,
    NewGeneration,
    Position,
    Ready,
    Voided,
    decode_envelope,
    encode_item,
)
from protocol.items import Item, tombstone
from tests.unit.protocol.builders import product, stock

ITEMS = st.lists(
    st.one_of(
        st.builds(
            product, st.just("A"), st.integers(0, 2**53 - 1), name=st.text(st.characters(codec="utf-8"))
        ),
        st.builds(stock, st.just("A"), st.just("L1"), st.integers(0, 2**53 - 1)),
        st.builds(tombstone, st.just("stock:A:L1"), st.integers(0, 2**53 - 1)),
    ),
    max_size=5,
)


class TestForms:
    @given(ITEMS)
    def test_a_change_carries_its_items(self, items: list[Item]) -> None:
        """No body holds a raw line break, whatever a product is called."""
        data = b"\n".join([b"D location:L1 e1 8 1763805600123", *map(encode_item, items)])
        assert decode_envelope(data) == Changed("location:L1", "e1", 8, 1763805600123, tuple(items))

    @pytest.mark.parametrize(
        ("data", "envelope"),
        [
            (b"R product:A e2 0", Ready("product:A", "e2", 0)),
            (b"V product:A", Voided("product:A")),
            (b"C g1 1763805600123 42", Beat("g1", 1763805600123, 42)),
            (b"G g2", NewGeneration("g2")),
        ],
    )
    def test_the_others_are_one_line(self, data: bytes, envelope: object) -> None:
        assert decode_envelope(data) == envelope

    def test_a_live_item_may_carry_a_number_of_the_stores(self) -> None:
        lines = b"product:A 7 L123 {}\nproduct:B 8 L {}\nproduct:C 9 T {}"
        decoded = decode_envelope(b"D vendor:V e1 8 1763805600123\n" + lines)
        assert isinstance(decoded, Changed)
        assert decoded.items == (
            Item("product:A", 7, False, b"{}"),
            Item("product:B", 8, False, b"{}"),
            Item("product:C", 9, True, b"{}"),
        )

    def test_a_position_is_an_epoch_and_a_sequence(self) -> None:
        assert Position("e", 7) == ("e", 7)


class TestMalformed:
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"X",
            b"R product:A e2",
            b"R product:A e2 x",
            b"V product:A and more",
            b"V \xff",
            b"D location:L1 e1 8 1\nstock:A:L1",
            b"D location:L1 e1 8 1\nstock:A:L1 x L {}",
            b"D location:L1 e1 8 1\n\xff 1 L {}",
        ],
    )
    def test_is_refused(self, data: bytes) -> None:
        with pytest.raises(MalformedEnvelope):
            decode_envelope(data)

    @given(st.binary() | st.binary().map(lambda tail: b"D a b 1 2\n" + tail))
    def test_nothing_else_is_raised(self, data: bytes) -> None:
        with suppress(MalformedEnvelope):
            assert decode_envelope(data) is not None
