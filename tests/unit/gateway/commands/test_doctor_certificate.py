from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.commands.doctor_certificate import examine_certificate
from gateway.config import Settings
from listeners.findings import Finding, Grade
from tests.support.certificates import Authority, KeyPair


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def settings(pair: KeyPair) -> Settings:
    pair.key.chmod(0o600)
    return Settings(tls_certificate=str(pair.certificate), tls_key=str(pair.key))


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_nothing_without_tls() -> None:
    assert examine_certificate(Settings()) == []


def test_one_that_is_in_order(authority: Authority) -> None:
    finding = only(examine_certificate(settings(authority.certify(days=90))))
    assert finding.grade is Grade.OK
    assert finding.found == "for localhost, 127.0.0.1, for another 90.0 days"


@pytest.mark.parametrize(
    ("days", "grade", "found"),
    [
        (13, Grade.WARNING, "expires in 13.0 days"),
        (-2, Grade.FAILURE, "has expired 2.0 days ago"),
    ],
)
def test_one_that_ends(authority: Authority, days: float, grade: Grade, found: str) -> None:
    finding = only(examine_certificate(settings(authority.certify(days=days))))
    assert (finding.grade, finding.found) == (grade, found)
    assert "SIGHUP" in finding.advice


def test_one_that_has_not_begun(authority: Authority) -> None:
    pair = authority.certify(days=90)
    finding = only(examine_certificate(settings(pair), now=datetime.now(UTC) - timedelta(days=3)))
    assert finding.grade is Grade.FAILURE
    assert "not valid before" in finding.found


def test_one_for_nobody(authority: Authority) -> None:
    findings = examine_certificate(settings(authority.certify(hosts=())))
    assert [finding.grade for finding in findings] == [Grade.OK, Grade.FAILURE]


def test_the_key_of_another(authority: Authority) -> None:
    pair = authority.certify()._replace(key=authority.certify("other").key)
    finding = only(examine_certificate(settings(pair)))
    assert finding.grade is Grade.FAILURE
    assert "is the key of another certificate" in finding.found


def test_a_key_that_everybody_may_read(authority: Authority) -> None:
    pair = authority.certify()
    given = settings(pair)
    pair.key.chmod(0o644)
    assert [finding.grade for finding in examine_certificate(given)] == [Grade.OK, Grade.WARNING]
