import pytest

from gateway.metrics import CONTENT_TYPE, Description, GatewayMetrics


def value(metrics: GatewayMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


class TestHotPathCounters:
    def test_sent_frames_and_bytes_are_counted_by_type(self) -> None:
        metrics = GatewayMetrics()
        metrics.sent("delta", 3, 900)
        metrics.sent("delta", 1, 100)
        assert value(metrics, "gateway_messages_sent_total", type="delta") == 4
        assert value(metrics, "gateway_sent_bytes_total", type="delta") == 1000
        assert value(metrics, "gateway_messages_sent_total", type="snapshot") == 0

    def test_a_type_of_ours_that_is_not_listed_is_a_mistake_of_ours(self) -> None:
        with pytest.raises(KeyError):
            GatewayMetrics().sent("deltas", 1, 1)

    def test_plain_integers_become_samples(self) -> None:
        metrics = GatewayMetrics()
        metrics.conflated += 5
        metrics.slow_disconnects += 1
        metrics.gaps += 2
        metrics.log_repairs += 1
        metrics.snapshot_hits += 7
        assert value(metrics, "gateway_conflated_items_total") == 5
        assert value(metrics, "gateway_slow_disconnects_total") == 1
        assert value(metrics, "gateway_gaps_total") == 2
        assert value(metrics, "gateway_repairs_total", by="log") == 1
        assert value(metrics, "gateway_repairs_total", by="snapshot") == 0
        assert value(metrics, "gateway_snapshot_requests_total", result="hit") == 7


class TestLabels:
    def test_a_stranger_can_not_invent_a_label(self) -> None:
        metrics = GatewayMetrics()
        for number in range(1000):
            metrics.received(f"made-up-{number}")
        metrics.received("ping")
        assert value(metrics, "gateway_messages_received_total", type="other") == 1000
        assert value(metrics, "gateway_messages_received_total", type="ping") == 1
        assert b"made-up" not in metrics.render()

    def test_a_reading_outside_the_closed_set_is_other(self) -> None:
        family = Description("x", "gauge", "why", "kind", ("a",)).family({"a": 1, "b": 2, "c": 3})
        assert {s.labels["kind"]: s.value for s in family.samples} == {"a": 1, "other": 5}


class TestReaders:
    def test_statistics_are_read_at_scrape_time(self) -> None:
        metrics = GatewayMetrics()
        connections = 1
        metrics.watch(lambda: {"gateway_connections": connections})
        assert value(metrics, "gateway_connections") == 1
        connections = 9
        assert value(metrics, "gateway_connections") == 9

    def test_other_packages_bring_their_descriptions(self) -> None:
        metrics = GatewayMetrics(descriptions=[("gateway_relay_active", "gauge", "why", "", ())])
        metrics.watch(lambda: {"gateway_relay_active": 1})
        assert value(metrics, "gateway_relay_active") == 1

    def test_a_reading_without_description_is_a_mistake_of_ours(self) -> None:
        metrics = GatewayMetrics()
        metrics.watch(lambda: {"gateway_unheard_of": 1})
        with pytest.raises(KeyError):
            metrics.render()


class TestExposition:
    def test_durations_are_histograms_in_seconds(self) -> None:
        metrics = GatewayMetrics()
        metrics.commit_to_send.observe(0.008)
        assert value(metrics, "gateway_commit_to_send_seconds_bucket", le="0.01") == 1
        assert value(metrics, "gateway_commit_to_send_seconds_bucket", le="0.005") == 0

    def test_every_metric_says_why_it_is_there(self) -> None:
        for family in GatewayMetrics().registry.collect():
            assert len(family.documentation) > 10, family.name

    def test_processes_do_not_share_a_registry(self) -> None:
        first, second = GatewayMetrics(), GatewayMetrics()
        first.gaps += 1
        assert value(second, "gateway_gaps_total") == 0

    def test_the_text_names_the_version(self) -> None:
        metrics = GatewayMetrics()
        metrics.build_info("1.2.3")
        assert b'gateway_build_info{version="1.2.3"} 1.0' in metrics.render()
        assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")
