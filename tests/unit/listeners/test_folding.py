import dataclasses
import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from listeners.change_log import LogRow
from listeners.folding import CanaryMark, fold
from listeners.parts import LogItem
from protocol.items import Item


def stock(product: str = "A", location: str = "L1", vendor: str = "V", **fields: Any) -> str:
    numbers = dict.fromkeys(("available", "on_hand", "reserved", "damaged", "safety_stock", "incoming"), 1)
    ids = {"product_id": product, "location_id": location, "vendor_id": vendor}
    return json.dumps({**ids, **numbers, **fields})


def product(name: str = "A", vendor: str = "V", **fields: Any) -> str:
    return json.dumps({"product_id": name, "vendor_id": vendor, "price_minor": 100, **fields})


def row(id: int, op: str, kind: str | None, item: str | None, **fields: Any) -> LogRow:  # noqa: A002  # the column
    source = {"stock": "inventory", "product": "products", "location": "locations"}.get(kind or "", "canary")
    given = {"version": id, "gone": None, "recorded_at_ms": 1000 + id, **fields}
    return LogRow(id=id, source=source, kind=kind, op=op, item=item, **given)


def versions(changes: dict[str, list[LogItem]]) -> dict[str, dict[str, tuple[int, bool, int]]]:
    """By topic and key: version, deleted, log id."""
    return {
        topic: {item.key: (item.version, item.deleted, log_id) for item, log_id in items}
        for topic, items in changes.items()
    }


class TestWhereRowsGo:
    def test_stock_goes_to_its_product_location_and_vendor(self) -> None:
        changes = fold([row(1, "U", "stock", stock())]).changes()
        assert versions(changes) == {
            topic: {"stock:A:L1": (1, False, 1)} for topic in ("product:A", "location:L1", "vendor:V")
        }

    def test_a_product_goes_to_itself_its_vendor_and_the_locations_with_stock_of_it(self) -> None:
        changes = fold([row(1, "U", "product", product(), locations=["L1", "L2"])]).changes()
        assert versions(changes) == {
            topic: {"product:A": (1, False, 1)}
            for topic in ("product:A", "vendor:V", "location:L1", "location:L2")
        }

    def test_new_stock_brings_its_product_into_the_location(self) -> None:
        new = row(5, "I", "stock", stock(), product=product(), product_version=3)
        changes = versions(fold([new]).changes())
        assert changes["location:L1"] == {"stock:A:L1": (5, False, 5), "product:A": (3, False, 0)}
        assert changes["product:A"] == changes["vendor:V"] == {"stock:A:L1": (5, False, 5)}

    def test_a_fold_that_contains_an_insert_brings_it_too(self) -> None:
        new = row(5, "I", "stock", stock(), product=product(), product_version=3)
        changes = versions(fold([new, row(6, "U", "stock", stock())]).changes())
        assert changes["location:L1"] == {"stock:A:L1": (6, False, 6), "product:A": (3, False, 0)}

    def test_a_deleted_row_is_a_tombstone_wherever_the_row_was(self) -> None:
        changes = fold([row(2, "D", "stock", stock())]).changes()
        assert versions(changes) == {
            topic: {"stock:A:L1": (2, True, 2)} for topic in ("product:A", "location:L1", "vendor:V")
        }
        body = orjson.loads(changes["vendor:V"][0].item.body)
        assert body == {
            "kind": "stock",
            "product_id": "A",
            "location_id": "L1",
            "version": 2,
            "deleted": True,
        }

    def test_topics_that_a_row_has_left_get_a_tombstone(self) -> None:
        changes = versions(fold([row(2, "U", "stock", stock(vendor="W"), gone=["vendor:V"])]).changes())
        assert changes["vendor:V"] == {"stock:A:L1": (2, True, 2)}
        assert changes["vendor:W"] == changes["location:L1"] == {"stock:A:L1": (2, False, 2)}

    def test_a_topic_outside_the_grammar_gets_none(self) -> None:
        changes = fold([row(2, "U", "stock", stock(), gone=["vendor:not a key", "vendor:"])]).changes()
        assert set(changes) == {"product:A", "location:L1", "vendor:V"}

    def test_a_changed_location_voids_and_changes_nothing(self) -> None:
        folded = fold([row(1, "U", "location", '{"location_id":"L1","active":false}')])
        assert folded.locations == {"L1"}
        assert not folded.topics

    def test_a_source_feeds_only_the_kinds_of_topics_it_names(self) -> None:
        new = row(5, "I", "stock", stock(), product=product(), product_version=3)
        folded = fold([new], feeds={"inventory": {"product", "location"}, "products": set()})
        assert set(folded.topics) == {"product:A", "location:L1"}

    def test_stock_says_whether_its_location_is_active(self) -> None:
        changes = fold([row(1, "U", "stock", stock(), location_active=False)]).changes()
        assert orjson.loads(changes["product:A"][0].item.body)["location_active"] is False


class TestTheHighestIdWins:
    def test_whatever_the_versions_say(self) -> None:
        deleted = row(7, "D", "stock", stock(), version=12)
        inserted = row(9, "I", "stock", stock(), version=11)
        changes = versions(fold([deleted, inserted]).changes())
        assert changes["product:A"] == {"stock:A:L1": (11, False, 9)}

    def test_but_a_higher_version_that_it_overtakes_is_sent_before_it(self) -> None:
        deleted = row(7, "D", "stock", stock(), version=12)
        inserted = row(9, "I", "stock", stock(), version=11)
        changes = fold([deleted, inserted]).changes()
        assert [(i.version, i.deleted, log_id) for i, log_id in changes["product:A"]] == [
            (12, True, 7),
            (11, False, 9),
        ]

    def test_but_not_over_a_newer_row_that_a_trigger_logged_first(self) -> None:
        nested = row(16, "U", "stock", stock(on_hand=2), version=17)
        outer = row(17, "U", "stock", stock(on_hand=1), version=16)
        assert versions(fold([nested, outer]).changes())["product:A"] == {"stock:A:L1": (17, False, 16)}

    def test_a_product_that_was_looked_up_has_no_log_id(self) -> None:
        new = row(5, "I", "stock", stock(), product=product(), product_version=3)
        assert [log_id for item, log_id in fold([new]).changes()["location:L1"] if item.version == 3] == [0]

    def test_in_whatever_order_they_come(self) -> None:
        rows = [row(n, "U", "stock", stock(on_hand=n)) for n in (3, 1, 2)]
        assert versions(fold(rows).changes())["vendor:V"] == {"stock:A:L1": (3, False, 3)}

    def test_per_topic_so_that_one_which_was_left_keeps_its_tombstone(self) -> None:
        rows = [row(1, "D", "stock", stock(vendor="V")), row(2, "I", "stock", stock(vendor="W"))]
        changes = versions(fold(rows).changes())
        assert changes["vendor:V"] == {"stock:A:L1": (1, True, 1)}
        assert changes["vendor:W"] == changes["product:A"] == {"stock:A:L1": (2, False, 2)}


class TestMarkers:
    def test_a_truncated_table_voids_everything(self) -> None:
        assert fold([row(1, "T", None, None)]).truncated
        assert not fold([row(1, "U", "stock", stock())]).truncated

    def test_the_last_canary_counts(self) -> None:
        rows = [row(n, "C", None, f'{{"as_of_ms":{n * 100},"beat":{n}}}') for n in (1, 2)]
        folded = fold(rows)
        assert folded.beat == CanaryMark(as_of_ms=200, number=2)
        assert (folded.rows, folded.changed_at_ms) == (0, None)

    def test_the_oldest_change_dates_the_batch(self) -> None:
        rows = [row(n, "U", "stock", stock(), recorded_at_ms=at) for n, at in ((1, 500), (2, 400), (3, 600))]
        assert fold(rows).changed_at_ms == 400


class TestRowsThatAreNoItems:
    @pytest.mark.parametrize(
        ("kind", "item"),
        [
            ("stock", stock(product="no key")),
            ("stock", stock(location="")),
            ("stock", stock(vendor="x" * 65)),
            ("stock", json.dumps({"product_id": "A", "location_id": 7, "vendor_id": "V"})),
            ("product", product(name="a/b")),
            ("product", json.dumps({"product_id": "A"})),
            ("location", '{"location_id":"a b"}'),
            ("stock", None),
            (None, stock()),  # of a source that was detached
        ],
    )
    def test_are_skipped_and_counted_when_their_keys_do_not_fit(
        self, kind: str | None, item: str | None
    ) -> None:
        folded = fold([row(1, "U", kind, item), row(2, "U", "stock", stock())])
        assert (folded.rows, folded.skipped) == (2, 1)
        assert set(folded.topics) == {"product:A", "location:L1", "vendor:V"}

    def test_are_gone_when_their_values_do_not_fit_because_a_load_does_not_give_them_either(self) -> None:
        folded = fold([row(1, "U", "stock", stock(on_hand=1.5))])
        assert versions(folded.changes())["product:A"] == {"stock:A:L1": (1, True, 1)}
        assert folded.skipped == 1

    def test_locations_outside_the_grammar_are_left_out(self) -> None:
        folded = fold([row(1, "U", "product", product(), locations=["L 1", "L2"])])
        assert set(folded.topics) == {"product:A", "vendor:V", "location:L2"}


def test_only_the_topics_asked_for_are_built() -> None:
    folded = fold([row(1, "U", "stock", stock()), row(2, "U", "stock", stock(product="B"))])
    assert set(folded.changes({"product:B", "product:C"})) == {"product:B"}


@dataclasses.dataclass
class Shop:
    """Tables, the log their triggers would write, and its reader's look-ups."""

    stock: dict[tuple[str, str], tuple[str, int]] = dataclasses.field(default_factory=dict)  # vendor, version
    products: dict[str, int] = dataclasses.field(default_factory=dict)  # version
    log: list[LogRow] = dataclasses.field(default_factory=list)

    def change(self, action: str, name: str, location: str, vendor: str) -> None:
        number = len(self.log) + 1
        key = (name, location)
        if action == "price":
            op = "U" if name in self.products else "I"
            self.products[name] = number
            self.log.append(row(number, op, "product", product(name)))
        elif action == "delete" and key in self.stock:
            old, _ = self.stock.pop(key)
            self.log.append(row(number, "D", "stock", stock(name, location, old)))
        elif action == "write":
            old, _ = self.stock.get(key, (vendor, 0))
            op = "U" if key in self.stock else "I"
            gone = [f"vendor:{old}"] if old != vendor else None
            self.stock[key] = (vendor, number)
            self.log.append(row(number, op, "stock", stock(name, location, vendor), gone=gone))

    def looked_up(self, rows: list[LogRow]) -> list[LogRow]:
        return [self._looked_up(row) for row in rows]

    def _looked_up(self, row: LogRow) -> LogRow:
        name = orjson.loads(row.item or "")["product_id"]
        if row.kind == "product":
            return row._replace(locations=[location for product, location in self.stock if product == name])
        if row.op == "D" or (row.op == "U" and not row.gone) or name not in self.products:
            return row
        return row._replace(product=product(name), product_version=self.products[name])

    def topics(self) -> dict[str, dict[str, int]]:
        """What each topic has to hold: key and version."""
        held: dict[str, dict[str, int]] = {}
        for (name, location), (vendor, version) in self.stock.items():
            for topic in (f"product:{name}", f"location:{location}", f"vendor:{vendor}"):
                held.setdefault(topic, {})[f"stock:{name}:{location}"] = version
            if name in self.products:
                held[f"location:{location}"][f"product:{name}"] = self.products[name]
        for name, version in self.products.items():
            for topic in (f"product:{name}", "vendor:V"):
                held.setdefault(topic, {})[f"product:{name}"] = version
        return held


ACTIONS = st.tuples(
    st.sampled_from(["write", "write", "delete", "price"]),
    st.sampled_from("AB"),
    st.sampled_from(["L1", "L2"]),
    st.sampled_from("VW"),
)


@settings(deadline=None)
@given(st.lists(st.lists(ACTIONS, max_size=6), max_size=8))
def test_however_a_history_is_cut_every_topic_ends_as_the_tables_are(
    history: list[list[tuple[str, str, str, str]]],
) -> None:
    shop, kept, read = Shop(), dict[str, dict[str, Item]](), 0
    for actions in history:
        for action in actions:
            shop.change(*action)
        batch, read = shop.looked_up(shop.log[read:]), len(shop.log)
        for topic, items in fold(batch).changes().items():
            for item, _ in items:
                held = kept.setdefault(topic, {}).get(item.key)
                if held is None or item.version > held.version:
                    kept[topic][item.key] = item
    expected = shop.topics()
    for topic in kept.keys() | expected.keys():
        live = {item.key: item.version for item in kept.get(topic, {}).values() if not item.deleted}
        if topic.startswith("location:"):  # a product stays there when its stock has gone
            stocked = {key.split(":")[1] for key in live if key.startswith("stock:")}
            live = {key: version for key, version in live.items() if key.split(":")[1] in stocked}
        assert live == expected.get(topic, {}), topic
