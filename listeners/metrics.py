"""What the listeners tell Prometheus: names, Help texts, and how their statistics become readings.

Plain data: who runs a listener exports it (gateway.metrics).
"""

from collections.abc import Mapping
from typing import Final, Literal

from listeners.bus import BusStatistics
from listeners.loader import LoaderStatistics
from listeners.relay_state import RelayStatistics
from listeners.verifier import VerifierStatistics

__all__ = ["DESCRIPTIONS", "bus_readings", "loader_readings", "relay_readings", "verifier_readings"]

Readings = Mapping[str, float | Mapping[str, float]]
# The fields of gateway.metrics.Description: name, kind, Help text, label, and the values that it can take.
Row = tuple[str, Literal["counter", "gauge"], str, str, tuple[str, ...]]

_TRIPS: Final = ("read", "apply", "probe")


def _counter(name: str, text: str, label: str = "", values: tuple[str, ...] = ()) -> Row:
    return name, "counter", text, label, values


def _gauge(name: str, text: str, label: str = "", values: tuple[str, ...] = ()) -> Row:
    return name, "gauge", text, label, values


DESCRIPTIONS: Final[tuple[Row, ...]] = (
    _gauge("gateway_relay_active", "1 where the relay is active: one process of all, or nothing moves."),
    _gauge(
        "gateway_relay_lag_seconds",
        "Since everything logged was last read and published, by the active relay.",
    ),
    _gauge(
        "gateway_log_backlog_rows",
        "Rows logged and not yet read, at most: growing means the relay does not keep up, or is not there.",
    ),
    _gauge(
        "gateway_relay_canary_timestamp_seconds", "When the last canary that went the whole way was logged."
    ),
    _counter(
        "gateway_relay_reigns", "Times this process became the relay: often means the lock is lost often."
    ),
    _counter("gateway_relay_failures", "Reigns and tries that ended by an error; the log says which."),
    _counter(
        "gateway_relay_rows_read", "Rows of the change log that were read: the load by the shop's writers."
    ),
    _counter(
        "gateway_relay_rows_skipped", "Rows that can not become items, such as keys outside the grammar."
    ),
    _counter(
        "gateway_relay_messages_published",
        "Messages to topics that somebody had loaded: what interest costs.",
    ),
    _counter(
        "gateway_relay_topics_voided", "Topics that had to be loaded anew: each costs a read of Postgres."
    ),
    _counter("gateway_relay_notifications", "Wake-ups by NOTIFY, which takes a lock that all writers share."),
    _counter("gateway_relay_log_leaves_emptied", "Partitions of the change log that retention has emptied."),
    _counter(
        "gateway_relay_round_trips",
        "Conversations of the relay, for the mean of the next one.",
        "trip",
        _TRIPS,
    ),
    _counter(
        "gateway_relay_round_trip_seconds",
        "Time spent in them: read and probe wait for Postgres, apply for Redis.",
        "trip",
        _TRIPS,
    ),
    _gauge("gateway_bus_connected", "1 while every channel is confirmed: else clients hear `stale`."),
    _counter(
        "gateway_bus_reconnects", "Times the bus was lost: after each, positions are compared and repaired."
    ),
    _gauge(
        "gateway_bus_channels",
        "Channels wanted, and those the server has confirmed; they should be equal.",
        "state",
        ("wanted", "confirmed"),
    ),
    _counter("gateway_bus_messages", "Messages heard: this replica's share of what is published."),
    _counter("gateway_bus_malformed", "Messages that are none of ours: somebody else uses our channels."),
    _counter(
        "gateway_loads", "Topics read from Postgres, by how it went.", "result", ("done", "failed", "lost")
    ),
    _counter("gateway_load_rows", "Rows read for loads: what interest costs Postgres."),
    _counter("gateway_load_seconds", "Time spent in loads that were completed."),
    _gauge(
        "gateway_loads_now",
        "Loads under way, and those waiting for their turn.",
        "state",
        ("running", "waiting"),
    ),
    _counter(
        "gateway_verified", "Loaded topics that were compared with Postgres and found equal to its rows."
    ),
    _counter(
        "gateway_mismatches",
        "Topics that differed from Postgres with nothing under way, and were voided: writes bypassed the "
        "triggers, or the gateway is wrong. Each is worth a look; the log names the topic.",
    ),
    _counter(
        "gateway_verify_skipped",
        "Comparisons without a result: what differed has changed since, too many items, or a server failed.",
        "reason",
        ("moved", "too_large", "failed"),
    ),
    _counter("gateway_verify_seconds", "Time spent on comparing, waiting for the canary included."),
)


def relay_readings(statistics: RelayStatistics) -> Readings:
    trips = {"read": statistics.read, "apply": statistics.apply, "probe": statistics.probe}
    return {
        "gateway_relay_active": int(statistics.active),
        "gateway_relay_lag_seconds": statistics.lag_s,
        "gateway_log_backlog_rows": statistics.backlog_rows,
        "gateway_relay_canary_timestamp_seconds": statistics.beat_as_of_ms / 1000,
        "gateway_relay_reigns": statistics.reigns,
        "gateway_relay_failures": statistics.failures,
        "gateway_relay_rows_read": statistics.rows_read,
        "gateway_relay_rows_skipped": statistics.rows_skipped,
        "gateway_relay_messages_published": statistics.published,
        "gateway_relay_topics_voided": statistics.voided,
        "gateway_relay_notifications": statistics.notifications,
        "gateway_relay_log_leaves_emptied": statistics.leaves_emptied,
        "gateway_relay_round_trips": {name: trip.count for name, trip in trips.items()},
        "gateway_relay_round_trip_seconds": {name: trip.total_s for name, trip in trips.items()},
    }


def bus_readings(statistics: BusStatistics) -> Readings:
    return {
        "gateway_bus_connected": int(statistics.connected),
        "gateway_bus_reconnects": statistics.losses,
        "gateway_bus_channels": {"wanted": statistics.wanted, "confirmed": statistics.confirmed},
        "gateway_bus_messages": statistics.messages,
        "gateway_bus_malformed": statistics.malformed,
    }


def loader_readings(statistics: LoaderStatistics) -> Readings:
    return {
        "gateway_loads": {"done": statistics.loads, "failed": statistics.failures, "lost": statistics.lost},
        "gateway_load_rows": statistics.rows,
        "gateway_load_seconds": statistics.seconds,
        "gateway_loads_now": {"running": statistics.running, "waiting": statistics.waiting},
    }


def verifier_readings(statistics: VerifierStatistics) -> Readings:
    return {
        "gateway_verified": statistics.verified,
        "gateway_mismatches": statistics.mismatches,
        "gateway_verify_skipped": {
            "moved": statistics.moved,
            "too_large": statistics.too_large,
            "failed": statistics.failures,
        },
        "gateway_verify_seconds": statistics.seconds,
    }
