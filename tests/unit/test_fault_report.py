import time
from pathlib import Path

import pytest

from tests.faults.ledger import LEDGER, injected, tally
from tests.faults.report import read_report, table


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(LEDGER, str(tmp_path))
    return tmp_path


def inject(kind: str, **promise: float) -> None:
    with injected(kind, **promise) as fault:
        fault.noticed()
        fault.ended()
        fault.recovered()


class TestTheLedger:
    def test_counts_faults_by_kind(self, directory: Path) -> None:
        inject("redis: cut")
        inject("redis: cut")
        inject("postgres: cut")
        report = read_report(directory)
        assert [(kind.name, kind.times) for kind in report.kinds] == [("postgres: cut", 1), ("redis: cut", 2)]
        assert report.faults == 3

    def test_times_begin_where_they_should(self, directory: Path) -> None:
        with injected("a") as fault:
            fault.noticed(fault.began + 1)
            fault.noticed(fault.began + 2)
            fault.ended()
            fault.recovered()
        (kind,) = read_report(directory).kinds
        assert kind.detection_s[0] == pytest.approx(1)
        assert 0 <= kind.recovery_s[0] < 1

    def test_refuses_a_fault_that_nobody_saw_the_end_of(self, directory: Path) -> None:
        with pytest.raises(AssertionError, match="nothing says that all is well"), injected("a"):
            time.monotonic()

    def test_refuses_a_slow_recovery(self, directory: Path) -> None:
        with pytest.raises(AssertionError, match="0 s promised"):
            inject("a", promised_s=0)

    def test_sums_up_tallies(self, directory: Path) -> None:
        tally("copies", 2)
        tally("copies")
        assert read_report(directory).tallies == {"copies": 3}


def test_the_table_gives_median_and_worst(directory: Path) -> None:
    inject("redis: cut")
    tally("copies", 1000)
    assert table(read_report(directory)).splitlines()[2:] == [
        "| redis: cut | 1 | 0.0 / 0.0 | 0.0 / 0.0 |",
        "| all | 1 | 0.0 / 0.0 | 0.0 / 0.0 |",
        "",
        "copies: 1,000",
    ]
