import re
from collections import Counter

import pytest

from gateway.sample.catalogue import (
    Assortment,
    Stock,
    location,
    location_id,
    product,
    product_id,
    stock,
    vendor,
)

NUMBERS = range(1, 3001)
KEY = re.compile(r"[A-Za-z0-9._-]{1,64}")


class TestIds:
    def test_are_short_and_say_what_they_name(self) -> None:
        assert [product_id(1), product_id(1_000_000), location_id(1), vendor(2).vendor_id] == [
            "P000001",
            "P1000000",
            "L1",
            "V2",
        ]

    def test_fit_the_grammar_of_keys(self) -> None:
        assert all(KEY.fullmatch(key) for number in NUMBERS for key in (product_id(number),))

    def test_are_unique_and_so_are_skus(self) -> None:
        products = [product(number) for number in NUMBERS]
        assert len({one.product_id for one in products}) == len(products)
        assert len({one.sku for one in products}) == len(products)


class TestProducts:
    def test_are_the_same_in_every_shop(self) -> None:
        assert product(7) == product(7)
        assert product(7).name == "Training Football, Sand"

    def test_neighbours_are_of_different_categories(self) -> None:
        assert all(product(n).category != product(n + 1).category for n in NUMBERS)

    def test_cost_something_believable(self) -> None:
        prices = [product(number).price_minor for number in NUMBERS]
        assert min(prices) >= 400
        assert max(prices) < 100_000
        assert {price % 100 for price in prices} == {0, 50, 90, 95, 99}

    def test_have_many_names(self) -> None:
        assert len({product(number).name for number in NUMBERS}) > 1500

    def test_are_mostly_published(self) -> None:
        of = Counter(product(number).status for number in NUMBERS)
        assert set(of) == {"published", "draft", "archived"}
        assert of["published"] > 0.94 * len(NUMBERS)

    def test_the_first_ones_are_all_on_sale(self) -> None:
        assert {product(number).status for number in range(1, 25)} == {"published"}


class TestStock:
    @pytest.mark.parametrize("location_number", [1, 2, 30])
    def test_keeps_the_constraints_of_the_table(self, location_number: int) -> None:
        for number in NUMBERS:
            row = stock(number, location_number)
            assert min(row.on_hand, row.reserved, row.damaged, row.safety_stock, row.incoming) >= 0
            assert row.reserved + row.damaged <= row.on_hand

    def test_some_is_sold_out_some_low_and_most_neither(self) -> None:
        def available(row: Stock) -> int:
            return row.on_hand - row.reserved - row.damaged - row.safety_stock

        rows = [stock(number, 1) for number in NUMBERS]
        out = sum(available(row) <= 0 for row in rows)
        low = sum(0 < available(row) <= (row.low_stock_at or 5) for row in rows)
        assert 0.03 < out / len(rows) < 0.15
        assert 0.03 < low / len(rows) < 0.25

    def test_differs_from_location_to_location(self) -> None:
        assert len({stock(5, number).on_hand for number in range(1, 20)}) > 5

    def test_some_rows_leave_low_stock_to_the_setting(self) -> None:
        assert {stock(number, 1).low_stock_at for number in NUMBERS} == {None, 3, 5, 10}


class TestLocations:
    def test_have_names_that_do_not_repeat(self) -> None:
        assert location(1).name == "Market Street"
        assert location(11).name == "Market Street 2"
        assert len({location(number).name for number in range(1, 101)}) == 100

    def test_are_stores_warehouses_and_one_online(self) -> None:
        assert {location(number).kind for number in range(1, 11)} == {"store", "warehouse", "virtual"}

    def test_vendors_have_names_that_do_not_repeat_either(self) -> None:
        assert len({vendor(number).name for number in range(1, 51)}) == 50


class TestAssortment:
    def test_with_one_vendor_everything_is_everywhere(self) -> None:
        shop = Assortment(products=10, locations=3)
        assert [row.location_id for row in shop.stock_of(10)] == ["L1", "L2", "L3"]
        assert {row.vendor_id for row in shop.stock_of(10)} == {"V1"}
        assert shop.rows == 10 * (1 + 3)

    def test_several_vendors_get_products_and_locations_in_turn(self) -> None:
        shop = Assortment(products=5, locations=3, vendors=2)
        assert [shop.vendor_of(number) for number in (1, 2, 3)] == [1, 2, 1]
        assert [row.location_id for row in shop.stock_of(3)] == ["L1", "L3"]
        assert [(row.location_id, row.vendor_id) for row in shop.stock_of(4)] == [("L2", "V2")]

    @pytest.mark.parametrize("shop", [Assortment(5, 3, 2), Assortment(6, 3, 3), Assortment(7, 5, 4)])
    def test_knows_how_many_rows_it_has(self, shop: Assortment) -> None:
        rows = sum(1 + len(list(shop.stock_of(number))) for number in range(1, shop.products + 1))
        assert shop.rows == rows
