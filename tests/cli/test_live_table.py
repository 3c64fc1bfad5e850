"""The table of a roll-out as a terminal shows it: each host once, nothing left over, nothing wrapped."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pyte
import pytest

ROLLOUT = """
import sys
from netctl.cli.live import Live
from netctl.fleet.rollout import HostRun, State
hosts = [f"host{number}" for number in range(int(sys.argv[1]))]
with Live(False) as live:
    live.begin([hosts[:1], hosts[1:]])
    for host in hosts:
        live.tell(HostRun(host, host, State.RUNNING, task="apply the document " + "and wait " * 20))
    for host in hosts[:-1]:
        live.tell(HostRun(host, host, State.DONE))
    live.tell(HostRun(hosts[-1], hosts[-1], State.FAILED, why="it does not answer"))
print("done", file=sys.stderr)
"""


def shown(columns: int, rows: int, hosts: int) -> list[str]:
    """What stands on a terminal of this size at the end, what has scrolled away included; empty lines left out."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        [sys.executable, "-c", ROLLOUT, str(hosts)],
        stdout=theirs,
        stderr=theirs,
        stdin=theirs,
        env=environment,
    ) as child:
        os.close(theirs)
        screen = pyte.HistoryScreen(columns, rows, history=1000, ratio=1)
        stream = pyte.ByteStream(screen)
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while data := os.read(ours, 65_536):
                stream.feed(data)
        os.close(ours)
    assert child.returncode == 0
    gone = ["".join(line[column].data for column in range(columns)) for line in screen.history.top]
    return [line.rstrip() for line in (*gone, *screen.display) if line.strip()]


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (30, 12)])
def test_each_host_is_shown_once(columns: int, rows: int) -> None:
    lines = shown(columns, rows, 5)
    assert lines[0] == "4 of 5 hosts done"
    assert [line.split()[:2] for line in lines[1:]] == [["ok", f"host{n}"] for n in range(4)] + [
        ["FAIL", "host4"],
        ["done"],
    ]


def test_more_hosts_than_lines_leave_only_those_that_matter() -> None:
    lines = shown(60, 10, 40)
    assert lines == ["39 of 40 hosts done", "  FAIL host39  it does not answer", "done"]
