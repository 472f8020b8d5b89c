from load.spending import spending_table


def test_the_table_is_by_row_and_adds_up() -> None:
    bulk = {"Valkey": 2.0, "the relay": 1.0, "of": 6.0}
    single = {"Valkey": 0.5, "the relay": 0.25, "of": 3.0}
    table = spending_table("Spent", [("bulk", bulk, 100_000), ("single", single, 10_000)])
    assert table.head == ("us of CPU time a row", "bulk", "single")
    assert [list(row) for row in table.rows] == [
        ["Valkey", "20.0", "50.0"],
        ["the relay", "10.0", "25.0"],
        ["**together**", "30.0", "75.0"],
        ["of all cores' time", "50%", "25%"],
    ]
