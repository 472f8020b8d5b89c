"""RFC 6455 by the cases that implementations are measured with; see docs/conformance.md."""

import pytest
import uvloop

from tests.conformance.cases import EXPLAINED, GROUPS, OK, UNIMPLEMENTED, Verdict, run_cases, tables
from tests.conformance.page import PAGE, section

EXTENSIONS = {"12", "13"}


@pytest.fixture(scope="module")
def verdicts() -> list[Verdict]:
    return uvloop.run(run_cases())


class TestAutobahn:
    def test_all_cases_are_run(self, verdicts: list[Verdict]) -> None:
        assert len(verdicts) == 517
        assert {verdict.group for verdict in verdicts} == GROUPS.keys()

    def test_none_fails_and_each_that_is_not_strict_is_explained(self, verdicts: list[Verdict]) -> None:
        found = {
            verdict.case: verdict.behavior
            for verdict in verdicts
            if verdict.behavior != OK and verdict.group not in EXTENSIONS
        }
        assert found == {case: behavior for case, (behavior, _) in EXPLAINED.items()}
        closed_badly = [v for v in verdicts if v.closing != OK and v.closing != v.behavior]
        assert closed_badly == []

    def test_compression_is_offered_and_refused(self, verdicts: list[Verdict]) -> None:
        compressed = [verdict for verdict in verdicts if verdict.group in EXTENSIONS]
        assert {verdict.behavior for verdict in compressed} == {UNIMPLEMENTED}
        assert {verdict.close_code for verdict in compressed} == {1000}
        for verdict in compressed:
            assert " 101 " in verdict.response
            assert "extensions" not in verdict.response.lower()

    def test_the_page_says_so(self, verdicts: list[Verdict]) -> None:
        """After a change: `make conformance`."""
        assert section(PAGE.read_text(), "autobahn") == tables(verdicts)
