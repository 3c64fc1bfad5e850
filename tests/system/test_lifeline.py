"""A server of a test run that is killed ends, and its directory goes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.patience import BUSY_S, wait_for

ROOT = Path(__file__).parents[2]
RUN = """
import subprocess, sys, time
from pathlib import Path
from tests.support.lifeline import tether
server = subprocess.Popen(["sleep", "1000"])
tether(server.pid, Path(sys.argv[1]))
print(server.pid, flush=True)
time.sleep(1000)
"""


def test_a_server_ends_with_a_run_that_is_killed(tmp_path: Path) -> None:
    place = tmp_path / "files"
    place.mkdir()
    run = subprocess.Popen([sys.executable, "-c", RUN, str(place)], stdout=subprocess.PIPE, cwd=ROOT)
    assert run.stdout is not None
    server = int(run.stdout.readline())
    assert Path(f"/proc/{server}").exists()
    run.kill()
    run.stdout.close()
    run.wait(BUSY_S)
    wait_for("its directory is gone, after it", lambda: not place.exists())

    def ended() -> bool:
        stat = Path(f"/proc/{server}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"

    assert ended()
