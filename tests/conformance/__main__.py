"""`make conformance`: runs the Autobahn cases, and writes what came of them into docs/conformance.md."""

import sys

import uvloop

from tests.conformance.cases import run_cases, tables
from tests.conformance.page import PAGE, with_section


def main() -> int:
    told = tables(uvloop.run(run_cases()))
    print(told)
    PAGE.write_text(with_section(PAGE.read_text(), "autobahn", told))
    return 1 if "**not explained**" in told else 0


if __name__ == "__main__":
    sys.exit(main())
