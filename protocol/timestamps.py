"""Times on the wire: UTC, ISO 8601, milliseconds, `Z`."""

from datetime import UTC, datetime

__all__ = ["format_time", "from_unix_ms", "normalise_time"]


def format_time(moment: datetime) -> str:
    """`2026-11-22T10:00:00.123Z`. A naive datetime is taken as UTC; milliseconds are cut, not rounded."""
    utc = moment.astimezone(UTC) if moment.tzinfo else moment
    return f"{utc.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def from_unix_ms(unix_ms: int) -> str:
    """The wire form of milliseconds since 1970."""
    seconds, ms = divmod(unix_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()}.{ms:03d}Z"


def normalise_time(text: str) -> str:
    """The wire form of a timestamp as Postgres puts it into JSON (`2026-11-22T10:00:00.123456+00:00`).

    Raises ValueError for anything that is no ISO 8601 time.
    """
    if len(text) == 32 and text[10] == "T" and text[19] == "." and text.endswith("+00:00"):
        return text[:23] + "Z"  # the common case, without parsing
    try:
        return format_time(datetime.fromisoformat(text))
    except OverflowError:  # year 1 east of Greenwich, year 9999 west of it
        raise ValueError(f"{text!r} is outside the years 1 to 9999") from None
