from collections.abc import Mapping, Sequence

from load.scenario import Report, Verdict

__all__ = ["machine_text", "report_text", "table", "verdicts_text"]


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


def report_text(report: Report) -> str:
    parts = []
    for part in report.tables:
        parts.append(f"{part.title}\n\n{table(part.head, part.rows)}")
        if part.note:
            parts.append(part.note)
    return "\n\n".join(parts)


def verdicts_text(verdicts: Sequence[Verdict]) -> str:
    rows = [(each.budget, each.measured, "met" if each.met else "NOT met") for each in verdicts]
    return table(("budget", "measured", ""), rows)
