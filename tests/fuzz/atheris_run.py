"""`make fuzz-atheris`: the same inputs, led by coverage; longer runs find what chance does not.

atheris is not among the locked packages, as it has wheels for few platforms; nothing else needs it. Options
are libFuzzer's, such as -max_total_time=3600.
"""

import sys

import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

with atheris.instrument_imports(include=["gateway", "protocol", "websockets"]):
    from tests.fuzz.harness import hear_errors
    from tests.fuzz.target import Target

if __name__ == "__main__":
    hear_errors()
    atheris.Setup(sys.argv, Target().feed)
    atheris.Fuzz()
