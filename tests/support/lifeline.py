"""Servers that end with the test run, also where it is killed and cannot end them itself."""

from __future__ import annotations

import atexit
import subprocess
from pathlib import Path

_WATCH = """
all=
while read -r pid start directory; do
    all="$all
$pid $start $directory"
done
echo "$all" | while read -r pid start directory; do
    [ -n "$pid" ] || continue
    n=0
    while [ "$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | cut -d' ' -f20)" = "$start" ]; do
        [ $n -lt 50 ] && kill -INT "$pid" || kill -KILL "$pid"
        sleep 0.1
        n=$((n + 1))
    done
    [ -z "$directory" ] || rm -rf -- "$directory"
done
"""
"""Reads a process, when it began (proc(5): its number may become another's), and its directory from each line. The end
of the pipe, which only the test run holds open, is the end of the run.
"""
_watchers: list[subprocess.Popen[bytes]] = []
"""One for this process, once there is a server. PR_SET_PDEATHSIG would not do: it acts when the thread ends that has
started the server.
"""


def tether(process: int, directory: Path | None = None) -> None:
    """Have a child of this process end, and its directory removed, when this process has ended."""
    if not _watchers:
        watcher = subprocess.Popen(
            ["sh", "-c", _WATCH], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        _watchers.append(watcher)
        atexit.register(watcher.communicate)
    stdin = _watchers[0].stdin
    assert stdin is not None
    began = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    stdin.write(f"{process} {began} {directory or ''}\n".encode())
    stdin.flush()
