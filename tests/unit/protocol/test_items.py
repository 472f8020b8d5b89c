import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from protocol.item_models import AnyItem
from protocol.items import (
    MAX_BODY_BYTES,
    Copy,
    InvalidRow,
    Item,
    _any_item,
    _plain_stock,
    build_item,
    item_key,
    tombstone,
)
from tests.unit.protocol.builders import product, stock

ANY_ITEM: TypeAdapter[AnyItem] = TypeAdapter(AnyItem)


def is_in_the_contract(item: Item) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(item.body)
    model = ANY_ITEM.validate_json(item.body, strict=True)
    assert model.model_dump(exclude_unset=True) == decoded
    assert item_key(decoded) == item.key
    assert decoded["version"] == item.version
    assert decoded.get("deleted", False) is item.deleted
    return decoded


class TestBuild:
    def test_stock(self) -> None:
        item = stock("A", "L1", 17, 5, on_hand=7, reserved=2, low_stock_at=3)
        assert item.key == "stock:A:L1"
        assert is_in_the_contract(item) == {
            "kind": "stock",
            "product_id": "A",
            "location_id": "L1",
            "vendor_id": "V",
            "version": 17,
            "available": 5,
            "on_hand": 7,
            "reserved": 2,
            "damaged": 0,
            "safety_stock": 0,
            "incoming": 0,
            "low_stock_at": 3,
            "location_active": True,
            "updated_at": "2026-11-22T10:00:00.123Z",
        }

    def test_product(self) -> None:
        item = product("A", 12, name="Tasse \u2615")
        assert item.key == "product:A"
        assert is_in_the_contract(item)["name"] == "Tasse \u2615"

    def test_a_source_may_lack_what_is_no_key_and_no_number(self) -> None:
        row = {"product_id": "A", "vendor_id": "V", "price_minor": 1}
        decoded = is_in_the_contract(build_item("product", row, 1))
        assert (decoded["sku"], decoded["status"], decoded["updated_at"]) == ("", "", None)

    def test_low_stock_is_null_but_never_absent(self) -> None:
        assert is_in_the_contract(stock("A", "L", 1))["low_stock_at"] is None

    def test_an_inactive_location_is_said(self) -> None:
        assert is_in_the_contract(stock("A", "L", 1, location_active=False))["location_active"] is False

    def test_whole_numbers_of_any_type_are_integers(self) -> None:
        assert b'"available":5,' in stock("A", "L", 1, available=5, on_hand=5.0).body
        assert b'"on_hand":5,' in stock("A", "L", 1, available=5, on_hand=5.0).body

    def test_a_number_that_is_null_or_absent_counts_as_nothing(self) -> None:
        assert is_in_the_contract(stock("A", "L", 1, incoming=None))["incoming"] == 0
        row = {"product_id": "A", "vendor_id": "V", "updated_at": None}
        assert is_in_the_contract(build_item("product", row, 1))["price_minor"] == 0

    @pytest.mark.parametrize("key", [None, 7, "", "a:b", "a b", "x" * 65])
    @pytest.mark.parametrize("field", ["product_id", "location_id", "vendor_id"])
    def test_refuses_keys_outside_the_grammar(self, field: str, key: Any) -> None:
        with pytest.raises(InvalidRow, match=field):
            stock("A", "L", 1, **{field: key})

    @pytest.mark.parametrize(
        "value",
        [True, "5", 1.5, float("nan"), float("inf"), -float("inf"), 2**53, -(2**53), 1e300, 10**400],
    )
    def test_refuses_what_is_no_exact_integer(self, value: object) -> None:
        with pytest.raises(InvalidRow, match="on_hand"):
            stock("A", "L", 1, on_hand=value)

    @pytest.mark.parametrize("value", ["yesterday", 5, "infinity", "0001-01-01T00:00:00+14:00"])
    def test_refuses_what_is_no_time(self, value: object) -> None:
        with pytest.raises(InvalidRow, match="updated_at"):
            product("A", 1, updated_at=value)

    @given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3), st.integers(1, 30_000))
    def test_cuts_texts_only_where_the_item_would_be_too_large(self, text: str, times: int) -> None:
        item = product("A", 1, name=text * times, category=text * times)
        assert len(item.body) <= MAX_BODY_BYTES
        name = is_in_the_contract(item)["name"]
        assert name == text * times or (len(name) == 1_000 and (text * times).startswith(name))

    def test_cuts_all_texts_at_once_at_the_worst(self) -> None:
        worst = "\x01" * 60_000
        item = product("A", 1, worst, name=worst, sku=worst, category=worst, currency=worst)
        assert 30_000 < len(item.body) <= MAX_BODY_BYTES


NUMBERS = st.one_of(
    st.integers(-(2**54), 2**54),
    st.sampled_from([2**53 - 1, 2**53, -(2**53)]),
    st.floats(),
    st.booleans(),
    st.none(),
)
STOCK_ROWS = st.fixed_dictionaries(
    {
        **dict.fromkeys(
            ("product_id", "location_id", "vendor_id"),
            st.sampled_from(["A", "x" * 64, "x" * 65, "a:b", "", 7, None, "\u00e9", "A\n"]),
        ),
        **dict.fromkeys(
            ("available", "on_hand", "reserved", "damaged", "safety_stock", "incoming"),
            st.integers(-9, 9) | NUMBERS,
        ),
        "low_stock_at": NUMBERS,
        "updated_at": st.sampled_from(
            ["2026-11-22T10:00:00.123456+00:00", "2026-11-22T10:00:00+00:00", "infinity", 5, None]
        ),
    },
    optional={"location_active": st.booleans() | st.none()},
)
PLAIN = {
    **dict.fromkeys(("available", "on_hand", "reserved", "damaged", "safety_stock", "incoming"), 1),
    "product_id": "A",
    "location_id": "L",
    "vendor_id": "V",
    "low_stock_at": None,
    "updated_at": "2026-11-22T10:00:00.123456+00:00",
}


def built(build: Callable[..., Item], *arguments: Any) -> Item | str:
    try:
        return build(*arguments)
    except InvalidRow as error:
        return str(error)


class TestTheShortWay:
    """Rows of stock as they nearly always are have a way of their own, which must not make a difference."""

    def test_is_taken(self) -> None:
        assert _plain_stock(PLAIN, 7) == _any_item("stock", PLAIN, 7)

    @given(
        STOCK_ROWS
        | st.builds(
            lambda row, keys: {k: row[k] for k in row if k not in keys},
            STOCK_ROWS,
            st.sets(st.sampled_from(sorted(PLAIN))),
        )
    )
    def test_leads_where_the_long_one_does(self, row: dict[str, Any]) -> None:
        assert built(build_item, "stock", row, 7) == built(_any_item, "stock", row, 7)

    @given(
        st.fixed_dictionaries({}, optional={name: NUMBERS for name in PLAIN if isinstance(PLAIN[name], int)})
    )
    def test_also_where_a_single_value_is_odd(self, odd: dict[str, Any]) -> None:
        row = PLAIN | odd
        assert built(build_item, "stock", row, 7) == built(_any_item, "stock", row, 7)


class TestTombstone:
    @pytest.mark.parametrize("item", [stock("A", "L1", 1), product("A", 1)])
    def test_has_the_key_of_what_it_deletes(self, item: Item) -> None:
        gone = tombstone(item.key, 9)
        assert gone.key == item.key
        assert is_in_the_contract(gone)["deleted"] is True

    @pytest.mark.parametrize("key", ["availability:A", "availability:A:L1"])
    def test_of_an_availability(self, key: str) -> None:
        assert is_in_the_contract(tombstone(key, 9))["kind"] == "availability"


VERSIONED = st.builds(
    lambda key, version, deleted: (key, version, deleted),
    st.sampled_from(["stock:A:L1", "stock:A:L2", "product:A"]),
    st.integers(0, 30),
    st.booleans(),
)


def decoded(key: str, version: int, deleted: bool) -> dict[str, Any]:
    kind, product_id, *location = key.split(":")
    item: dict[str, Any] = {"kind": kind, "product_id": product_id, "version": version}
    item |= {"location_id": location[0]} if location else {}
    return item | ({"deleted": True} if deleted else {})


class TestCopy:
    def test_applies_only_what_is_newer(self) -> None:
        copy = Copy()
        newer, older = decoded("product:A", 2, False), decoded("product:A", 1, False)
        assert copy.apply([newer, older, newer]) == [newer]
        assert copy.items == {"product:A": newer}

    def test_remembers_the_version_of_what_was_deleted(self) -> None:
        copy = Copy()
        copy.apply(
            [decoded("product:A", 1, False), decoded("product:A", 3, True), decoded("product:A", 2, False)]
        )
        assert copy.items == {}
        copy.apply([decoded("product:A", 4, False)])
        assert list(copy.items) == ["product:A"]

    def test_a_snapshot_may_go_back(self) -> None:
        copy = Copy()
        copy.apply([decoded("product:A", 5, False)])
        copy.reset()
        assert copy.items == {}
        assert copy.apply([decoded("product:A", 1, False)])

    @given(st.lists(VERSIONED, max_size=40), st.randoms())
    def test_ends_the_same_in_any_order_and_however_often(
        self, changes: list[tuple[str, int, bool]], random: Any
    ) -> None:
        """One version of a key is one thing: what was deleted at it is not also there at it."""
        history = {(key, version): decoded(key, version, deleted) for key, version, deleted in changes}
        in_order, shuffled = Copy(), Copy()
        in_order.apply(history[change] for change in sorted(history))
        again = [*history.values(), *history.values()]
        random.shuffle(again)
        shuffled.apply(again)
        assert shuffled.items == in_order.items

    @given(st.lists(VERSIONED, max_size=40))
    def test_no_version_goes_back(self, changes: list[tuple[str, int, bool]]) -> None:
        copy = Copy()
        highest: dict[str, int] = {}
        for change in changes:
            for item in copy.apply([decoded(*change)]):
                assert item["version"] > highest.get(item_key(item), -1)
                highest[item_key(item)] = item["version"]
        assert highest == {key: max(v for k, v, _ in changes if k == key) for key, _, _ in changes}
