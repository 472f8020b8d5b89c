"""What the public hears: section 3 of the contract, "Views"."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from protocol.item_models import AnyItem
from protocol.items import Copy, Item, item_key, tombstone
from protocol.public_view import PublicView
from protocol.topics import parse_topic
from tests.unit.protocol.builders import product, stock

DEFAULT_LOW = 5
ANY_ITEM: TypeAdapter[AnyItem] = TypeAdapter(AnyItem)


def view_of(topic: str, *items: Item) -> PublicView:
    view = PublicView(parse_topic(topic), DEFAULT_LOW)
    view.load(items)
    return view


def words(items: list[Item]) -> list[dict[str, Any]]:
    """The decoded items, each held against its model and its key."""
    decoded = [json.loads(item.body) for item in items]
    for item, body in zip(items, decoded, strict=True):
        assert ANY_ITEM.validate_json(item.body, strict=True).model_dump(exclude_unset=True) == body
        assert (item.key, item.version) == (item_key(body), body["version"])
        assert item.deleted is body.get("deleted", False)
    return decoded


def availability(items: list[Item]) -> list[dict[str, Any]]:
    """What is said about stock, without what is the same everywhere."""
    said = [body for body in words(items) if body["kind"] == "availability"]
    return [
        {name: value for name, value in body.items() if name not in {"kind", "product_id"}} for body in said
    ]


class TestWording:
    @pytest.mark.parametrize(
        ("available", "low", "words"),
        [
            ([], [], {"status": "out_of_stock"}),
            ([0], [3], {"status": "out_of_stock"}),
            ([-4], [3], {"status": "out_of_stock"}),
            ([3], [3], {"status": "low_stock", "only_left": 3}),
            ([4], [3], {"status": "in_stock"}),
            ([5], [None], {"status": "low_stock", "only_left": 5}),
            ([6], [None], {"status": "in_stock"}),
            ([1], [0], {"status": "in_stock"}),
            ([2, 2], [3, 4], {"status": "low_stock", "only_left": 4}),
            ([2, 3], [3, 4], {"status": "in_stock"}),
            ([2, 1], [None, 2], {"status": "in_stock"}),
            ([-9, 1], [None, None], {"status": "low_stock", "only_left": 1}),
        ],
    )
    def test_of_the_sum_and_the_largest_threshold(
        self, available: list[int], low: list[int | None], words: dict[str, Any]
    ) -> None:
        rows = [
            stock("A", f"L{number}", number, amount, low_stock_at=threshold)
            for number, (amount, threshold) in enumerate(zip(available, low, strict=True))
        ]
        view = view_of("product:A", product("A", 9), *rows)
        assert availability(view.snapshot()) == [{"version": 9} | words]

    def test_an_inactive_location_counts_for_nothing(self) -> None:
        closed = stock("A", "L2", 2, 100, low_stock_at=50, location_active=False)
        view = view_of("product:A", product("A", 1), stock("A", "L1", 3, 6), closed)
        assert availability(view.snapshot()) == [{"version": 3, "status": "in_stock"}]
        view = view_of("product:A", product("A", 1), closed)
        assert availability(view.snapshot()) == [{"version": 2, "status": "out_of_stock"}]

    def test_products_are_as_in_the_exact_view(self) -> None:
        shown = product("A", 9)
        assert view_of("product:A", shown).snapshot()[0] == shown


class TestLocation:
    def test_each_stock_item_has_a_word_of_its_own(self) -> None:
        view = view_of(
            "location:L", product("A", 1), product("B", 2), stock("A", "L", 3, 2), stock("B", "L", 4, 9)
        )
        assert [body for body in words(view.snapshot()) if body["kind"] == "availability"] == [
            {
                "kind": "availability",
                "product_id": "A",
                "location_id": "L",
                "version": 3,
                "status": "low_stock",
                "only_left": 2,
            },
            {
                "kind": "availability",
                "product_id": "B",
                "location_id": "L",
                "version": 4,
                "status": "in_stock",
            },
        ]

    def test_a_product_without_stock_there_needs_none(self) -> None:
        view = view_of("location:L", product("A", 1))
        assert availability(view.snapshot()) == []
        assert [item.key for item in view.snapshot()] == ["product:A"]

    def test_stock_that_is_gone_takes_its_word_along(self) -> None:
        view = view_of("location:L", product("A", 1), stock("A", "L", 3))
        assert words(view.apply([tombstone("stock:A:L", 7)])) == [
            {"kind": "availability", "product_id": "A", "location_id": "L", "version": 7, "deleted": True}
        ]

    def test_an_inactive_location_is_out_of_stock(self) -> None:
        view = view_of("location:L", product("A", 1), stock("A", "L", 3, 9, location_active=False))
        assert availability(view.snapshot()) == [{"location_id": "L", "version": 3, "status": "out_of_stock"}]


class TestHidden:
    @pytest.mark.parametrize("topic", ["product:A", "location:L"])
    @pytest.mark.parametrize(
        "hidden", [[], [product("A", 9, "draft")], [product("A", 9, "archived")], [tombstone("product:A", 9)]]
    )
    def test_what_is_not_published_is_not_there(self, topic: str, hidden: list[Item]) -> None:
        view = view_of(topic, stock("A", "L", 3), *hidden)
        assert view.snapshot() == []
        assert view.apply([stock("A", "L", 10, 1), tombstone("stock:A:L", 11)]) == []

    @pytest.mark.parametrize("topic", ["product:A", "location:L"])
    @pytest.mark.parametrize("hiding", [product("A", 12, "archived"), tombstone("product:A", 12)])
    def test_what_ceases_to_be_is_deleted_and_may_come_back(self, topic: str, hiding: Item) -> None:
        view = view_of(topic, product("A", 9), stock("A", "L", 10, 2))
        gone = words(view.apply([hiding]))
        assert [(body["kind"], body["version"], body["deleted"]) for body in gone] == [
            ("product", 12, True),
            ("availability", 12, True),
        ]
        assert view.snapshot() == []
        assert view.apply([product("A", 13, "draft")]) == []
        back = words(view.apply([product("A", 14)]))
        assert [(body["kind"], body["version"], body["status"]) for body in back] == [
            ("product", 14, "published"),
            ("availability", 14, "low_stock"),
        ]


class TestChanges:
    def test_only_what_can_be_seen_is_heard(self) -> None:
        view = view_of("product:A", product("A", 1), stock("A", "L", 2, 9))
        assert view.apply([stock("A", "L", 3, 100), stock("A", "L2", 4, 7)]) == []
        assert availability(view.snapshot()) == [{"version": 2, "status": "in_stock"}]
        assert availability(view.apply([tombstone("stock:A:L2", 5), stock("A", "L", 6, 1)])) == [
            {"version": 6, "status": "low_stock", "only_left": 1}
        ]

    def test_the_version_counts_tombstones(self) -> None:
        view = view_of("product:A", product("A", 1), stock("A", "L", 2, 9))
        assert availability(view.apply([tombstone("stock:A:L", 8)])) == [
            {"version": 8, "status": "out_of_stock"}
        ]

    def test_products_come_first_and_each_once(self) -> None:
        view = view_of("location:L")
        changes = [stock("A", "L", 4), product("A", 2), product("A", 3), stock("B", "L", 5), product("B", 1)]
        assert [(item.key, item.version) for item in view.apply(changes)] == [
            ("product:A", 3),
            ("product:B", 1),
            ("availability:A:L", 4),
            ("availability:B:L", 5),
        ]

    def test_what_is_not_newer_is_not_heard(self) -> None:
        view = view_of("product:A", product("A", 3), stock("A", "L", 2, 9))
        assert view.apply([product("A", 3), product("A", 2, "draft"), stock("A", "L", 2, 0)]) == []

    def test_a_late_commit_with_an_older_version_is_heard_all_the_same(self) -> None:
        """L2's version was drawn first and committed last: the highest of all does not move."""
        view = view_of("product:A", product("A", 1), stock("A", "L1", 20, 0))
        assert availability(view.apply([stock("A", "L2", 15, 1)])) == [
            {"version": 21, "status": "low_stock", "only_left": 1}
        ]

    def test_a_new_load_in_the_same_epoch_goes_below_no_version_sent(self) -> None:
        items = [product("A", 1), stock("A", "L1", 20, 0), stock("A", "L2", 15, 1)]
        view = view_of("product:A", *items[:2])
        view.apply(items[2:])
        view.load(items)
        assert availability(view.snapshot()) == [{"version": 21, "status": "low_stock", "only_left": 1}]
        view.load([*items[:2], tombstone("stock:A:L2", 18)])
        assert availability(view.snapshot()) == [{"version": 22, "status": "out_of_stock"}]

    def test_a_new_load_forgets_what_is_not_in_it(self) -> None:
        view = view_of("location:L", product("A", 1), stock("A", "L", 2))
        view.load([product("B", 1)])
        assert [item.key for item in view.snapshot()] == ["product:B"]

    def test_a_large_load_can_be_done_in_steps(self) -> None:
        items = [product(f"P{n}", n) for n in range(6)] + [stock(f"P{n}", "L", n, n) for n in range(6)]
        view = PublicView(parse_topic("location:L"), DEFAULT_LOW)
        for first in range(0, len(items), 5):
            view.add(items[first : first + 5])
        assert len(list(view.conclude(step=4))) == 1
        assert view.snapshot() == view_of("location:L", *items).snapshot()


def test_a_vendor_has_no_public_view() -> None:
    with pytest.raises(ValueError, match="vendor:V"):
        PublicView(parse_topic("vendor:V"), DEFAULT_LOW)


LOW = st.none() | st.integers(0, 6)
STATUS = st.sampled_from(["published", "published", "draft", "archived"])


@st.composite
def histories(draw: st.DrawFn, topic: str) -> list[list[Item]]:
    """Batches in the order of their commits: versions rise within a key, but not always between keys."""
    in_location = topic.startswith("location:")
    products = ["A", "B"] if in_location else ["A"]
    locations = ["L"] if in_location else ["L1", "L2"]
    versions: dict[str, int] = {}
    batches: list[list[Item]] = []
    for now in range(1, draw(st.integers(1, 12))):
        batch: list[Item] = []
        for _ in range(draw(st.integers(1, 3))):
            name, place = draw(st.sampled_from(products)), draw(st.sampled_from([None, *locations]))
            key = f"product:{name}" if place is None else f"stock:{name}:{place}"
            version = max(versions.get(key, 0) + 1, now * 10 + draw(st.integers(-25, 9)))
            versions[key] = version
            if draw(st.integers(0, 4)) == 0:
                batch.append(tombstone(key, version))
            elif place is None:
                batch.append(product(name, version, draw(STATUS)))
            else:
                amount, low, active = draw(st.integers(-1, 8)), draw(LOW), draw(st.integers(0, 4)) > 0
                batch.append(stock(name, place, version, amount, low_stock_at=low, location_active=active))
        batches.append(batch)
    return batches


def newest(batches: list[list[Item]]) -> dict[str, Item]:
    return {item.key: item for batch in batches for item in batch}


def naive(topic: str, items: dict[str, Item]) -> dict[str, dict[str, Any]]:
    """The contract, word by word, from the newest items alone; without versions."""
    live = [json.loads(item.body) for item in items.values() if not item.deleted]
    seen: dict[str, dict[str, Any]] = {}
    for shown in live:
        if shown["kind"] != "product" or shown["status"] != "published":
            continue
        name = shown["product_id"]
        seen[f"product:{name}"] = shown
        rows = [row for row in live if row["kind"] == "stock" and row["product_id"] == name]
        said: dict[str, Any] = {"kind": "availability", "product_id": name}
        if topic.startswith("location:"):
            if not rows:
                continue
            said["location_id"] = "L"
        active = [row for row in rows if row["location_active"]]
        amount = sum(max(0, row["available"]) for row in active)
        thresholds = [row["low_stock_at"] for row in active if row["low_stock_at"] is not None]
        low = max(thresholds) if thresholds else DEFAULT_LOW
        said["status"] = "out_of_stock" if amount == 0 else "low_stock" if amount <= low else "in_stock"
        if said["status"] == "low_stock":
            said["only_left"] = amount
        seen[item_key(said)] = said
    return {key: without_version(item) for key, item in seen.items()}


def without_version(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name != "version"}


@pytest.mark.parametrize("topic", ["product:A", "location:L"])
class TestAgainstTheNaiveView:
    @given(st.data())
    def test_a_copy_that_follows_is_always_right(self, topic: str, data: st.DataObject) -> None:
        batches = data.draw(histories(topic))
        begin = data.draw(st.integers(0, len(batches)))
        view = view_of(topic, *newest(batches[:begin]).values())
        copy = Copy()
        copy.apply(words(view.snapshot()))
        for number, batch in enumerate(batches[begin:], begin + 1):
            before = {key: without_version(item) for key, item in copy.items.items()}
            changes = words(view.apply(batch))
            assert copy.apply(changes) == changes  # every one is newer than what was sent before
            expected = naive(topic, newest(batches[:number]))
            assert {key: without_version(item) for key, item in copy.items.items()} == expected
            assert {item_key(item): item for item in words(view.snapshot())} == copy.items
            self.every_word_about_stock_is_news(changes, before)

    def every_word_about_stock_is_news(self, changes: list[dict[str, Any]], before: dict[str, Any]) -> None:
        for change in changes:
            if change["kind"] == "availability":
                known = before.get(item_key(change))
                assert known is not None if change.get("deleted") else without_version(change) != known

    @given(st.data())
    def test_versions_never_go_back_not_even_over_a_new_load(self, topic: str, data: st.DataObject) -> None:
        batches = data.draw(histories(topic))
        view = view_of(topic)
        sent: dict[str, int] = {}
        for number, batch in enumerate(batches, 1):
            if data.draw(st.booleans()):
                view.load(newest(batches[:number]).values())
                heard = view.snapshot()
            else:
                heard = view.apply(batch)
            for item in heard:
                assert item.version >= sent.get(item.key, 0)
                sent[item.key] = item.version

    @given(st.data())
    def test_the_version_is_the_highest_it_came_from(self, topic: str, data: st.DataObject) -> None:
        items = newest(data.draw(histories(topic)))
        for word in words(view_of(topic, *items.values()).snapshot()):
            if word["kind"] == "availability":
                name = word["product_id"]
                own = (f"product:{name}", f"stock:{name}:")
                assert word["version"] == max(i.version for i in items.values() if i.key.startswith(own))

    @given(st.data(), st.integers(1, 1_000))
    def test_levels_with_the_same_word_can_not_be_told_apart(
        self, topic: str, data: st.DataObject, more: int
    ) -> None:
        """Two shops that differ only in how far above the threshold their stock is."""
        batches = data.draw(histories(topic))
        one, other = view_of(topic), view_of(topic)
        for batch in batches:
            assert words(one.apply(batch)) == words(other.apply([fuller(item, more) for item in batch]))

    @given(st.data(), st.integers(1, 3))
    def test_pages_and_what_came_meanwhile_are_the_snapshot_at_the_end(
        self, topic: str, data: st.DataObject, size: int
    ) -> None:
        batches = data.draw(histories(topic))
        begin = data.draw(st.integers(0, len(batches)))
        view, later = view_of(topic, *newest(batches[:begin]).values()), batches[begin:]
        copy: dict[str, Item] = {}
        missed: list[Item] = []

        def take(items: list[Item]) -> None:
            for item in items:
                if item.key not in copy or copy[item.key].version < item.version:
                    copy[item.key] = item

        for page in view.pages(size=size):
            assert len(page) <= size
            take(page)
            missed += view.apply(later.pop(0)) if later else []
        for batch in later:
            missed += view.apply(batch)
        take(missed)
        assert {i.key: i for i in copy.values() if not i.deleted} == {i.key: i for i in view.snapshot()}


def fuller(item: Item, more: int) -> Item:
    """The same stock item with more of it, where one place alone is beyond any threshold of the histories."""
    body = json.loads(item.body)
    if body.get("available", 0) <= 6:
        return item
    return stock(
        body["product_id"],
        body["location_id"],
        item.version,
        body["available"] + more,
        low_stock_at=body["low_stock_at"],
        location_active=body["location_active"],
    )
