"""Which SSH session a command was typed in: from SSH_CONNECTION, also where `sudo` has taken it away."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "SSH_CONNECTION"
MAX_PARENTS = 32
"""sshd, shell, sudo, a script or two: a chain longer than this is something else."""


def ssh_connection(proc: Path = Path("/proc")) -> str:
    """What sshd said of the session (``client port server port``); empty when there is none.

    Looks at this process and then, as sudo keeps the variable to itself, at the nearest of its parents that has it.
    """
    own = os.environ.get(VARIABLE)
    if own is not None:
        return own
    process = os.getppid()
    for _ in range(MAX_PARENTS):
        if process <= 1:
            break
        try:
            environment = (proc / str(process) / "environ").read_bytes()
            stat = (proc / str(process) / "stat").read_text()
        except OSError:
            break  # another user's: only root sees past it
        for entry in environment.split(b"\0"):
            name, _, value = entry.partition(b"=")
            if name == VARIABLE.encode():
                return value.decode(errors="replace")
        process = int(stat.rpartition(")")[2].split()[1])
    return ""
