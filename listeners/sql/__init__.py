from functools import cache
from itertools import dropwhile
from pathlib import Path

__all__ = ["queries"]

_MARK = "-- name: "


@cache
def queries(file: str) -> dict[str, str]:
    """The named queries of `<file>.sql` in this directory.

    A query begins with a line `-- name: <name>` and lasts until the next one. Comments between that line and
    the query are for the reader of the file and are left out.
    """
    text = Path(__file__).with_name(f"{file}.sql").read_text(encoding="utf-8")
    _, *sections = text.split(_MARK)
    found: dict[str, str] = {}
    for section in sections:
        name, _, body = section.partition("\n")
        lines = dropwhile(lambda line: line.startswith("--"), body.strip().splitlines())
        found[name.strip()] = "\n".join(lines)
    return found
