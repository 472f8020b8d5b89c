from collections.abc import Mapping, Sequence
from typing import Final

from load.fanout import FanoutReport
from load.latency import LatencyReport
from load.percentiles import Summary
from load.shop_side import ShopSideReport

__all__ = [
    "TARGET_P50_MS",
    "TARGET_P99_MS",
    "fanout_text",
    "latency_text",
    "machine_text",
    "shop_text",
    "table",
]

# Of product topics at TARGET_RATE_PER_S on an idle machine of two cores.
TARGET_RATE_PER_S: Final = 100
TARGET_P50_MS: Final = 10.0
TARGET_P99_MS: Final = 30.0


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table that reads well as text: the first column to the left, the others to the right."""
    texts = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(head))]
    lines = [
        "| "
        + " | ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in texts
    ]
    rule = "|" + "|".join("-" * (width + 1) + (":" if i else "-") for i, width in enumerate(widths)) + "|"
    return "\n".join((lines[0], rule, *lines[1:]))


def machine_text(machine: Mapping[str, str]) -> str:
    width = max(map(len, machine))
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in machine.items())


def _times(summary: Summary) -> list[str]:
    return [f"{value:.1f}" for value in (summary.p50, summary.p90, summary.p99, summary.max)]


def latency_text(report: LatencyReport) -> str:
    head = ("ms", "p50", "p90", "p99", "max", "changes", "missing")
    rows: list[list[object]] = [["COMMIT itself", *_times(report.commit), report.changes, ""]]
    for result in report.results:
        for what, summary in (
            ("since COMMIT returned", result.since_commit_returned),
            ("since COMMIT was sent", result.since_commit_sent),
        ):
            rows.append([f"{result.topics}, {what}", *_times(summary), summary.samples, result.missing])
    title = f"Commit to client, {report.rate_per_s:g} changes/s, idle stack"
    verdict = f"\n\n{_verdict(report)}" if report.rate_per_s == TARGET_RATE_PER_S else ""
    return f"{title}\n\n{table(head, rows)}{verdict}"


def _verdict(report: LatencyReport) -> str:
    measured = report.results[0].since_commit_returned
    met = measured.p50 < TARGET_P50_MS and measured.p99 < TARGET_P99_MS
    target = f"target for product topics: p50 < {TARGET_P50_MS:g} ms, p99 < {TARGET_P99_MS:g} ms"
    return f"{target}: {'met' if met else 'NOT met'}"


def fanout_text(report: FanoutReport) -> str:
    head = ("changes/s", "frames", "frames/s", "MB/s", "server us/frame", "server CPU %", "clients CPU %")
    rows = [
        (
            f"{result.changes_per_s:g}",
            f"{result.frames:,}",
            f"{result.frames_per_s:,.0f}",
            f"{result.megabytes_per_s:.1f}",
            f"{result.cpu_us_per_frame:.1f}",
            f"{result.cpu_percent:.0f}",
            f"{result.clients_cpu_percent:.0f}",
        )
        for result in report.results
    ]
    title = f"Fan-out: {report.clients:,} clients on one topic"
    memory = (
        f"resident memory per idle connection with one topic: {report.bytes_per_connection / 1024:.1f} KiB"
    )
    return f"{title}\n\n{table(head, rows)}\n\n{memory}"


def shop_text(report: ShopSideReport) -> str:
    head = ("rows/s", "bare", "attached", "ratio", "of each pair")
    rows = [
        (
            result.what,
            f"{result.bare_rows_per_s:,.0f}",
            f"{result.attached_rows_per_s:,.0f}",
            f"{result.ratio:.2f}",
            " ".join(f"{value:.2f}" for value in result.ratios),
        )
        for result in report.results
    ]
    title = f"The shop's side, relay {report.relay}, synchronous_commit {report.synchronous_commit}"
    return f"{title}\n\n{table(head, rows)}"
