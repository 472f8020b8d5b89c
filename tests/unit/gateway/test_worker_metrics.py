from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import GatewayMetrics
from gateway.worker_metrics import merge_expositions


def exposition(gaps: int) -> str:
    metrics = GatewayMetrics()
    metrics.gaps = gaps
    metrics.sent("delta", gaps, 100)
    metrics.fan_out.observe(0.001)
    return metrics.render().decode()


class TestMerging:
    def test_every_sample_says_whose_it_is(self) -> None:
        merged = merge_expositions({"0": exposition(1), "1": exposition(2)})
        found = {
            sample.labels["worker"]: sample.value
            for family in text_string_to_metric_families(merged)
            for sample in family.samples
            if sample.name == "gateway_gaps_total"
        }
        assert found == {"0": 1, "1": 2}

    def test_other_labels_stay(self) -> None:
        assert (
            'gateway_messages_sent_total{worker="1",type="delta"} 2.0'
            in merge_expositions({"0": exposition(1), "1": exposition(2)}).splitlines()
        )

    def test_a_family_is_described_once_and_its_lines_are_together(self) -> None:
        merged = merge_expositions({"0": exposition(1), "1": exposition(2)})
        lines = merged.splitlines()
        comments = [line for line in lines if line.startswith("#")]
        assert len(comments) == len(set(comments))
        families = list(text_string_to_metric_families(merged))
        names = [family.name for family in families]
        assert len(names) == len(set(names))

    def test_values_are_those_of_the_workers(self) -> None:
        text = 'a{x="{}, \\" 1"} +Inf\nb 1e-05\nc 3 1700000000000\n'
        assert merge_expositions({"0": text}) == (
            'a{worker="0",x="{}, \\" 1"} +Inf\nb{worker="0"} 1e-05\nc{worker="0"} 3 1700000000000\n'
        )

    def test_nobody_answers(self) -> None:
        assert merge_expositions({}) == ""
