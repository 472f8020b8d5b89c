import subprocess
import sys

import pytest

from load.processes import cpu_seconds

BUSY_IN_A_THREAD = """
import threading, time
end = time.monotonic() + 0.2
def run():
    while time.monotonic() < end: pass
thread = threading.Thread(target=run)
thread.start()
thread.join()
print(time.process_time(), flush=True)
input()
"""


def test_the_time_of_another_process_counts_threads_that_have_ended() -> None:
    command = (sys.executable, "-c", BUSY_IN_A_THREAD)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        told = float(process.stdout.readline())
        assert told <= cpu_seconds(process.pid) < told + 0.1
        process.communicate(b"\n", timeout=10)
    assert told > 0.01


def test_a_process_that_is_gone_has_none() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(10)
    with pytest.raises(OSError, match="Invalid argument"):
        cpu_seconds(process.pid)
