"""Processes of the benchmark end with it, also when it can not end them."""

import asyncio
import shutil
import signal
import sys
from pathlib import Path

import pytest

from load.children import StackFailed, running, started
from load.waiting import until

SLEEPER = (sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(60)")
PARENT = """
import asyncio, sys, pathlib
from load.children import running
async def main():
    async with running(sys.argv[2:], pathlib.Path(sys.argv[1])) as process:
        print(process.pid, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def test_a_process_ends_with_the_block(tmp_path: Path) -> None:
    log = tmp_path / "sleeper.log"
    async with running(SLEEPER, log) as process:
        await started(process, log, lambda: "ready" in log.read_text())
        assert alive(process.pid)
    assert process.returncode == -signal.SIGTERM


async def test_a_process_that_ends_by_itself_is_told_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "broken.log"
    async with running((sys.executable, "-c", "raise SystemExit('no such thing')"), log) as process:
        with pytest.raises(StackFailed, match=r"(?s)broken did not start.*no such thing"):
            await started(process, log, lambda: False)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
async def test_a_process_ends_when_the_benchmark_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "sleeper.log"
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(log), *SLEEPER), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert parent.stdout is not None
        child = int(await asyncio.wait_for(parent.stdout.readline(), 30))
        await until(lambda: log.exists() and "ready" in log.read_text(), timeout_s=30)
    finally:
        parent.kill()
        await parent.wait()
    await until(lambda: not alive(child), timeout_s=10)
