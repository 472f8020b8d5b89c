from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.timestamps import format_time, from_unix_ms, normalise_time

NOON = datetime(2026, 11, 22, 12, 0, 0, 123999, UTC)


class TestFormat:
    def test_is_utc_with_milliseconds_cut(self) -> None:
        assert format_time(NOON) == "2026-11-22T12:00:00.123Z"
        assert format_time(NOON.astimezone(timezone(timedelta(hours=-5)))) == "2026-11-22T12:00:00.123Z"

    def test_takes_a_naive_time_as_utc(self) -> None:
        assert format_time(NOON.replace(tzinfo=None)) == "2026-11-22T12:00:00.123Z"

    def test_has_four_digits_for_any_year(self) -> None:
        assert format_time(datetime(44, 3, 15, tzinfo=UTC)) == "0044-03-15T00:00:00.000Z"

    @pytest.mark.parametrize(
        ("unix_ms", "text"),
        [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (1_795_341_600_123, "2026-11-22T10:00:00.123Z"),
        ],
    )
    def test_of_unix_milliseconds(self, unix_ms: int, text: str) -> None:
        assert from_unix_ms(unix_ms) == text


class TestNormalise:
    @pytest.mark.parametrize(
        ("postgres", "wire"),
        [
            ("2026-11-22T10:00:00.123456+00:00", "2026-11-22T10:00:00.123Z"),
            ("2026-11-22T10:00:00+00:00", "2026-11-22T10:00:00.000Z"),
            ("2026-11-22T10:00:00.5+00:00", "2026-11-22T10:00:00.500Z"),
            ("2026-11-22T12:30:00.123456+02:30", "2026-11-22T10:00:00.123Z"),
            ("2026-11-22T10:00:00.123456", "2026-11-22T10:00:00.123Z"),
            ("2026-11-22", "2026-11-22T00:00:00.000Z"),
        ],
    )
    def test_of_what_postgres_writes(self, postgres: str, wire: str) -> None:
        assert normalise_time(postgres) == wire

    @pytest.mark.parametrize(
        "text",
        [
            "infinity",
            "",
            "0044-03-15T00:00:00+00:00 BC",
            "10000-01-01T00:00:00+00:00",
            "0001-01-01T00:00:00+14:00",
            "aaaaaaaaaaaaaaaaaaaaaaaaaa+00:00",
        ],
    )
    def test_refuses_what_has_no_wire_form(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"isoformat|years"):
            normalise_time(text)

    @given(st.datetimes(timezones=st.just(UTC)))
    def test_agrees_with_format(self, moment: datetime) -> None:
        assert normalise_time(moment.isoformat()) == format_time(moment)
