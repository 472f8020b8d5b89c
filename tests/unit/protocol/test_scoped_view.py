"""What somebody with a limited scope sees of a topic's exact items."""

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from protocol.items import Item, tombstone
from protocol.principal import Scope
from protocol.scoped_view import Owners, owner_of, replay, sees, shown, shown_changes
from tests.support.replica import product, stock

V = Scope("V", None)
L1 = Scope(None, frozenset({"L1"}))
V_AT_L1 = Scope("V", frozenset({"L1"}))
SCOPES = [V, L1, V_AT_L1, Scope("W", None), Scope("V", frozenset())]


def moved(scope: Scope, before: list[Item], *after: Item) -> list[Item]:
    owners = Owners()
    owners.load(before)
    return shown_changes(scope, owners.apply(after))


class TestOwner:
    def test_of_every_kind(self) -> None:
        assert owner_of(stock("A", 1, vendor_id="W")) == "W"
        assert owner_of(product("A", 1, vendor_id="W")) == "W"
        assert owner_of(tombstone("stock:A:L1", 1)) is None
        assert owner_of(Item("product:A", 1, False, b'{"kind":"product"}')) is None

    @pytest.mark.parametrize(
        "text", ['"vendor_id":"V"', '\\"vendor_id\\":\\"V\\"', "\\", '","vendor_id":"V', "\ud800"[:0]]
    )
    def test_no_text_can_look_like_it(self, text: str) -> None:
        from protocol.items import build_item

        row = {
            "product_id": "A",
            "vendor_id": "W",
            "price_minor": 1,
            "sku": text,
            "name": text,
            "category": text,
        }
        item = build_item("product", row, 1)
        assert owner_of(item) == "W"
        # Even if the member came after the texts.
        at = item.body.index(b'"vendor_id":"W",')
        late = item.body[:at] + item.body[at + 16 : -1] + b',"vendor_id":"W"}'
        assert owner_of(item._replace(body=late)) == "W"


class TestSees:
    @pytest.mark.parametrize(
        ("scope", "key", "owner", "seen"),
        [
            (V, "stock:A:L1", "V", True),
            (V, "stock:A:L1", "W", False),
            (V, "product:A", "V", True),
            (V, "product:A", "W", False),
            (V, "stock:A:L1", None, False),
            (L1, "stock:A:L1", "W", True),
            (L1, "stock:A:L11", "W", False),
            (L1, "stock:L1:L2", "W", False),
            (L1, "product:A", "W", True),
            (V_AT_L1, "stock:A:L1", "V", True),
            (V_AT_L1, "stock:A:L2", "V", False),
            (V_AT_L1, "stock:A:L1", "W", False),
        ],
    )
    def test_vendor_and_location(self, scope: Scope, key: str, owner: str | None, seen: bool) -> None:
        assert sees(scope, key, owner) is seen

    def test_a_read(self) -> None:
        items = [stock("A", 1), stock("B", 2, vendor_id="W"), product("A", 3), tombstone("stock:C:L1", 4)]
        assert [item.key for item in shown(V, items)] == ["stock:A:L1", "product:A"]


class TestChanges:
    def test_within_the_scope(self) -> None:
        new = stock("A", 2)
        assert moved(V, [stock("A", 1)], new) == [new]
        assert moved(V, [], new) == [new]

    def test_of_others_nothing_is_said(self) -> None:
        assert moved(V, [stock("B", 1, vendor_id="W")], stock("B", 2, vendor_id="W")) == []
        assert moved(V, [stock("B", 1, vendor_id="W")], tombstone("stock:B:L1", 2)) == []
        assert moved(V, [], tombstone("stock:B:L1", 2)) == []
        assert moved(V, [stock("B", 1, vendor_id="W")], stock("B", 2, vendor_id="X")) == []

    def test_what_goes(self) -> None:
        gone = tombstone("stock:A:L1", 2)
        assert moved(V, [stock("A", 1)], gone) == [gone]
        assert moved(V, [stock("A", 1)], gone, tombstone("stock:A:L1", 3)) == [gone]

    def test_what_changes_hands(self) -> None:
        sold = product("A", 2, vendor_id="W")
        assert moved(V, [product("A", 1)], sold) == [tombstone("product:A", 2)]
        assert moved(Scope("W", None), [product("A", 1)], sold) == [sold]
        back = product("A", 3)
        assert moved(V, [product("A", 1)], sold, back) == [tombstone("product:A", 2), back]

    def test_nothing_of_the_new_owner_is_told_to_the_old_one(self) -> None:
        (told,) = moved(V, [stock("A", 1)], stock("A", 2, vendor_id="SECRET", on_hand=987))
        assert b"SECRET" not in told.body
        assert b"987" not in told.body

    def test_older_ones_mean_nothing(self) -> None:
        assert moved(V, [stock("A", 5)], stock("A", 4), stock("A", 5)) == []


class TestReplay:
    def test_what_can_be_told(self) -> None:
        changes = [[stock("A", 1), stock("A", 2, location_id="L2")], [product("A", 3)]]
        assert replay(V_AT_L1, changes) == [[changes[0][0]], [changes[1][0]]]

    @pytest.mark.parametrize(
        "change", [stock("A", 1, vendor_id="W"), tombstone("stock:A:L1", 1), tombstone("product:A", 1)]
    )
    def test_what_can_not(self, change: Item) -> None:
        assert replay(V_AT_L1, [[change]]) is None

    def test_what_never_was_of_interest(self) -> None:
        assert replay(
            V_AT_L1, [[tombstone("stock:A:L2", 1), stock("A", 2, location_id="L3", vendor_id="W")]]
        ) == [[]]


versions = st.integers(1, 1000)
items = st.builds(
    lambda kind, version, vendor, place: (
        tombstone(f"stock:A:{place}" if kind == "stock" else "product:A", version)
        if vendor is None
        else stock("A", version, vendor_id=vendor, location_id=place)
        if kind == "stock"
        else product("A", version, vendor_id=vendor)
    ),
    st.sampled_from(["stock", "product"]),
    versions,
    st.sampled_from(["V", "W", None]),
    st.sampled_from(["L1", "L2"]),
)


@given(st.lists(items), st.lists(items), st.sampled_from(SCOPES))
def test_a_copy_kept_by_changes_is_what_a_read_would_show(
    before: list[Item], after: list[Item], scope: Scope
) -> None:
    """And never says a word about what was never within the scope."""
    state: dict[str, Item] = {}

    def merge(changes: list[Item]) -> None:
        for item in changes:
            if item.key not in state or state[item.key].version < item.version:
                state[item.key] = item

    owners = Owners()
    merge(before)
    owners.load(before)
    copy: dict[str, Item] = {item.key: item for item in shown(scope, state.values())}
    ever: set[str] = set(copy)
    for change in after:
        merge([change])
        ever |= {item.key for item in shown(scope, state.values())}
        for told in shown_changes(scope, owners.apply([change])):
            assert told.key in ever
            assert told.key not in copy or copy[told.key].version < told.version
            if told.deleted:
                copy.pop(told.key, None)
            else:
                copy[told.key] = told
    assert copy == {item.key: item for item in shown(scope, state.values())}


def test_a_pause_now_and_then() -> None:
    owners = Owners()
    many: list[Any] = [stock(f"P{n}", n + 1) for n in range(25)]
    assert len(list(owners.load_steps(many, step=10))) == 2
