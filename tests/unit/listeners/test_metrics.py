from gateway.metrics import GatewayMetrics
from listeners.bus import BusStatistics
from listeners.loader import LoaderStatistics
from listeners.metrics import DESCRIPTIONS, bus_readings, loader_readings, relay_readings, verifier_readings
from listeners.relay_state import RelayStatistics
from listeners.verifier import VerifierStatistics

BUS = BusStatistics(connected=True, wanted=5, confirmed=4, messages=100, malformed=1, losses=2)
LOADER = LoaderStatistics(loads=3, failures=1, lost=2, rows=50, seconds=0.5, running=1, waiting=4)
VERIFIER = VerifierStatistics(verified=9, mismatches=1, moved=2, too_large=3, failures=4, seconds=0.5)


def scraped() -> GatewayMetrics:
    relay = RelayStatistics(active=True, lag_s=0.25, backlog_rows=7, beat_as_of_ms=1_700_000_000_500)
    relay.read.add(0.002)
    relay.read.add(0.004)
    metrics = GatewayMetrics(descriptions=DESCRIPTIONS)
    metrics.watch(lambda: relay_readings(relay))
    metrics.watch(lambda: bus_readings(BUS))
    metrics.watch(lambda: loader_readings(LOADER))
    metrics.watch(lambda: verifier_readings(VERIFIER))
    return metrics


def value(name: str, **labels: str) -> float | None:
    return scraped().registry.get_sample_value(name, labels)


def test_the_relay() -> None:
    assert value("gateway_relay_active") == 1
    assert value("gateway_relay_lag_seconds") == 0.25
    assert value("gateway_log_backlog_rows") == 7
    assert value("gateway_relay_canary_timestamp_seconds") == 1_700_000_000.5
    assert value("gateway_relay_round_trips_total", trip="read") == 2
    assert value("gateway_relay_round_trip_seconds_total", trip="read") == 0.006
    assert value("gateway_relay_round_trip_seconds_total", trip="apply") == 0


def test_the_bus() -> None:
    assert value("gateway_bus_connected") == 1
    assert value("gateway_bus_reconnects_total") == 2
    assert value("gateway_bus_channels", state="wanted") == 5
    assert value("gateway_bus_channels", state="confirmed") == 4


def test_the_loader() -> None:
    assert value("gateway_loads_total", result="failed") == 1
    assert value("gateway_loads_now", state="waiting") == 4


def test_the_verifier() -> None:
    assert value("gateway_verified_total") == 9
    assert value("gateway_mismatches_total") == 1
    assert value("gateway_verify_skipped_total", reason="moved") == 2
    assert value("gateway_verify_skipped_total", reason="too_large") == 3
    assert value("gateway_verify_skipped_total", reason="failed") == 4
    assert value("gateway_verify_seconds_total") == 0.5


def test_every_reading_is_described_and_every_description_is_read() -> None:
    read = {*relay_readings(RelayStatistics()), *bus_readings(BUS), *loader_readings(LOADER)}
    read |= {*verifier_readings(VERIFIER)}
    assert read == {name for name, *_ in DESCRIPTIONS}


def test_every_help_text_says_something() -> None:
    assert all(len(text) > 20 and text.endswith(".") for _, _, text, *_ in DESCRIPTIONS)
