"""`make fuzz-atheris`: the same inputs, led by coverage; longer runs find what chance does not.

atheris is not among the locked packages, as it has wheels for few platforms; nothing else needs it. Options
are libFuzzer's, such as -max_total_time=3600.
"""

import logging
import sys

import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]
import structlog

with atheris.instrument_imports(include=["gateway", "protocol", "websockets"]):
    from tests.fuzz.target import Target

if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    logging.basicConfig(handlers=[logging.NullHandler()])
    atheris.Setup(sys.argv, Target().feed)
    atheris.Fuzz()
