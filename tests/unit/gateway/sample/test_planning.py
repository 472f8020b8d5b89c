import random
from collections import Counter

import pytest

from gateway.sample.planning import USUAL, Kind, Line, Plan, Planner, Shelf

SHELVES = [Shelf(f"P{number:03d}", ("L1", "L2", "L3")) for number in range(1, 201)]


def plans(count: int, *, only: Kind | None = None, shelves: list[Shelf] = SHELVES) -> list[Plan]:
    planner = Planner(shelves, usual=USUAL if only is None else {only: 1}, random=random.Random(1))
    return [planner.next() for _ in range(count)]


class TestWhatHappens:
    def test_everything_a_shop_does_and_mostly_sales(self) -> None:
        kinds = Counter(plan.kind for plan in plans(4000))
        assert set(kinds) == set(Kind)
        assert kinds[Kind.SALE] > 0.6 * 4000

    def test_is_the_same_with_the_same_dice(self) -> None:
        assert plans(50) == plans(50)

    def test_needs_something_to_sell(self) -> None:
        with pytest.raises(ValueError, match="nothing to sell"):
            Planner([])


class TestSales:
    def test_follow_zipfs_law(self) -> None:
        sold = Counter(line.product_id for plan in plans(40_000, only=Kind.SALE) for line in plan.lines)
        assert [key for key, _ in sold.most_common(3)] == ["P001", "P002", "P003"]
        assert sold["P001"] / sold["P010"] == pytest.approx(10, rel=0.35)
        assert set(sold) == {shelf.product_id for shelf in SHELVES}

    def test_are_of_one_customer_at_one_location(self) -> None:
        orders = plans(500, only=Kind.SALE)
        assert all(len({line.location_id for line in plan.lines}) == 1 for plan in orders)
        assert {len(plan.lines) for plan in orders} == {1, 2, 3}

    def test_take_nothing_from_where_a_product_is_not(self) -> None:
        shelves = [Shelf("A", ("L1",)), Shelf("B", ("L2",))]
        lines = {
            (line.product_id, line.location_id)
            for plan in plans(500, only=Kind.SALE, shelves=shelves)
            for line in plan.lines
        }
        assert lines == {("A", "L1"), ("B", "L2")}

    def test_count_as_many_changes_as_they_have_lines(self) -> None:
        assert all(plan.changes == len(plan.lines) for plan in plans(100, only=Kind.SALE))

    def test_that_are_rolled_back_count_as_none(self) -> None:
        assert {plan.changes for plan in plans(100, only=Kind.ABANDON)} == {0}


def test_lines_are_in_key_order_so_that_no_two_transactions_deadlock() -> None:
    for plan in plans(4000):
        keys = [(line.product_id, line.location_id) for line in plan.lines]
        assert keys == sorted(set(keys))


class TestDeliveries:
    @pytest.mark.parametrize("kind", [Kind.RESTOCK, Kind.ANNOUNCE])
    def test_go_first_to_where_a_sale_has_left_little(self, kind: Kind) -> None:
        planner = Planner(SHELVES, usual={kind: 1}, random=random.Random(1))
        planner.noted_short(Line("P150", "L2", 1))
        (line,) = planner.next().lines
        assert (line.product_id, line.location_id) == ("P150", "L2")
        assert line.quantity >= 12

    def test_remember_a_bounded_number_of_places(self) -> None:
        planner = Planner(SHELVES, usual={Kind.RESTOCK: 1}, random=random.Random(1))
        for number in range(5000):
            planner.noted_short(Line(f"P{number}", "L1", 1))
        assert planner.next().lines[0].product_id == "P4000"


class TestTransfers:
    def test_take_as_much_from_one_place_as_they_bring_to_another(self) -> None:
        for plan in plans(200, only=Kind.TRANSFER):
            first, second = plan.lines
            assert first.quantity == -second.quantity != 0
            assert first.location_id != second.location_id
            assert first.product_id == second.product_id

    def test_need_two_places_and_else_are_sales(self) -> None:
        alone = plans(50, only=Kind.TRANSFER, shelves=[Shelf("A", ("L1",))])
        assert {plan.kind for plan in alone} == {Kind.SALE}


class TestProducts:
    def test_prices_go_up_as_often_as_down(self) -> None:
        factors = Counter(float(plan.value) < 1 for plan in plans(2000, only=Kind.PRICE))
        assert factors[True] == pytest.approx(1000, rel=0.15)

    def test_what_leaves_the_shelves_comes_back_and_few_are_gone_at_a_time(self) -> None:
        gone: set[str] = set()
        for plan in plans(2000, only=Kind.STATUS):
            (line,) = plan.lines
            if plan.value == "published":
                gone.remove(line.product_id)
            else:
                assert plan.value in ("draft", "archived")
                gone.add(line.product_id)
            assert len(gone) <= 3

    def test_the_most_popular_stay_on_sale(self) -> None:
        popular = {shelf.product_id for shelf in SHELVES[:50]}
        assert not popular & {plan.lines[0].product_id for plan in plans(2000, only=Kind.STATUS)}

    def test_even_a_single_product_has_a_status(self) -> None:
        assert plans(1, only=Kind.STATUS, shelves=[Shelf("A", ("L1",))])[0].lines[0].product_id == "A"
