"""Servers that end with the test run, also where it is killed and cannot end them itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

_WATCH = """
read -r _
kill -INT "$1" 2>/dev/null
n=0
while kill -0 "$1" 2>/dev/null && [ $n -lt 50 ]; do sleep 0.1; n=$((n + 1)); done
kill -KILL "$1" 2>/dev/null
[ -z "$2" ] || rm -rf -- "$2"
"""


class Lifeline:
    """Ends a process, and removes its directory, when this process has ended without `cut`.

    PR_SET_PDEATHSIG would not do: it acts when the thread ends that has started the process.
    """

    def __init__(self, process: int, directory: Path | None = None) -> None:
        # The watcher reads from a pipe that only this process holds open.
        self._watch = subprocess.Popen(
            ["sh", "-c", _WATCH, "sh", str(process), str(directory or "")],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def cut(self) -> None:
        """Before the process is ended in another way: its number may be another's afterwards."""
        self._watch.kill()
        self._watch.wait()
        if self._watch.stdin is not None:
            self._watch.stdin.close()
