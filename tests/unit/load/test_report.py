from dataclasses import asdict

import orjson
import pytest

from load.percentiles import summarize
from load.report import table
from load.scenarios.idle_latency import Commits, LatencyReport, LatencyResult, Receipts, latency_verdict
from load.scenarios.shop_side import ratio


def test_a_table_lines_up() -> None:
    assert table(("what", "n"), [("a", 1), ("longer", 100)]).splitlines() == [
        "| what   |   n |",
        "|--------|----:|",
        "| a      |   1 |",
        "| longer | 100 |",
    ]


@pytest.mark.parametrize(
    ("product_ms", "met"), [([1, 2, 3], True), ([11, 11, 11], False), ([1, 2, 31], False)]
)
def test_the_target_is_that_of_product_topics(product_ms: list[float], met: bool) -> None:
    products = LatencyResult("2 product topics", summarize(product_ms), summarize(product_ms), 0)
    location = LatencyResult("1 location topic", summarize([50]), summarize([50]), 0)
    report = LatencyReport(100, 3, summarize([0.1]), (products, location))
    assert latency_verdict(report).met is met


def test_figures_can_be_written_as_json() -> None:
    report = LatencyReport(100, 1, summarize([0.5]), ())
    written = orjson.loads(orjson.dumps(asdict(report)))
    assert written["commit"] == {"samples": 1, "p50": 0.5, "p90": 0.5, "p99": 0.5, "p999": 0.5, "max": 0.5}


class TestWhatALatencyIs:
    def test_times_count_from_both_ends_of_the_commit(self) -> None:
        commits, receipts = Commits({7: 1.000, 8: 2.000}, {7: 1.002, 8: 2.002}), Receipts()
        receipts.on_text(b'{"type":"delta","items":[{"version":7}]}', 1.005)
        result = commits.result("topics", receipts)
        assert result.since_commit_returned.p50 == pytest.approx(3)
        assert result.since_commit_sent.p50 == pytest.approx(5)
        assert result.missing == 1

    def test_only_the_first_receipt_counts(self) -> None:
        receipts = Receipts()
        for at in (1.0, 2.0):
            receipts.on_text(b'{"type":"delta","items":[{"version":7}]}', at)
        assert receipts.first == {7: 1.0}

    def test_a_snapshot_is_complete_with_its_last_part(self) -> None:
        receipts = Receipts()
        receipts.on_text(b'{"type":"snapshot","last":false,"items":[]}', 1.0)
        assert not receipts.complete(1)
        receipts.on_text(b'{"type":"snapshot","last":true,"items":[]}', 1.0)
        assert receipts.complete(1)

    def test_a_refused_topic_ends_the_run(self) -> None:
        receipts = Receipts()
        receipts.on_text(b'{"type":"error","code":"forbidden"}', 1.0)
        with pytest.raises(RuntimeError, match="forbidden"):
            receipts.complete(1)


def test_the_ratio_is_that_of_the_sums() -> None:
    assert ratio([100, 300], [100, 100]) == 0.5
