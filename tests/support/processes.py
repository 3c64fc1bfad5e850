"""Which programs run, and in which namespaces."""

from __future__ import annotations

import contextlib
from pathlib import Path

EVERY = ("ps", "-A", "-ww", "-o", "pid=,args=")
"""A line each, PID first, and whole: without -ww it ends at COLUMNS, which modules below pytest set."""


def namespace_of(pid: int, kind: str) -> str:
    """Of one process; `kind` as in /proc/PID/ns. Raises OSError: it is gone."""
    return str(Path(f"/proc/{pid}/ns/{kind}").readlink())


def processes_in(namespace: str) -> list[int]:
    """The processes in a namespace that `namespace_of` named."""
    kind = namespace.partition(":")[0]
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if namespace_of(int(process.name), kind) == namespace:
                found.append(int(process.name))
    return found
