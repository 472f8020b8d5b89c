"""Makes one exposition of several processes': every sample gets a label that says whose it is."""

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["merge_expositions"]

_SAMPLE: Final = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})? (\S+(?: \S+)?)")


def merge_expositions(expositions: Mapping[str, str]) -> str:
    """`expositions` by worker, in Prometheus' text format, which wants a family's lines together."""
    families: dict[str, list[str]] = {}
    for worker, text in expositions.items():
        family = families.setdefault("", [])  # of samples that nothing describes
        for line in text.splitlines():
            if line.startswith("#"):
                family = _family(families, line)
            elif match := _SAMPLE.fullmatch(line):
                name, labels, value = match.groups()
                labels = f'worker="{worker}"' + (f",{labels}" if labels else "")
                family.append(f"{name}{{{labels}}} {value}")
    return "".join(f"{line}\n" for lines in families.values() for line in lines)


def _family(families: dict[str, list[str]], comment: str) -> list[str]:
    """The lines of the family that a `# HELP name ...` or `# TYPE name ...` is about."""
    name = comment.split(" ", 3)[2]
    lines = families.setdefault(name, [])
    # Both comments come before the samples, and once.
    if comment not in lines:
        lines.append(comment)
    return lines
