"""Find the SSH session of the command from SSH_CONNECTION, even if `sudo` has removed the variable."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "SSH_CONNECTION"
"""Set by sshd: addresses and ports of both ends of the connection (ssh(1))."""
MAX_PARENTS = 32
"""Processes looked at. sshd, shell, sudo, a script or two: a longer chain is something else."""


def ssh_connection(proc: Path = Path("/proc")) -> str:
    """The value that sshd set for the session (``client port server port``); empty without a session.

    Reads the environment of this process, then of its parents, nearest first: sudo does not pass the variable on.
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
            break  # another user's process: only root can read its environment
        for entry in environment.split(b"\0"):
            name, _, value = entry.partition(b"=")
            if name == VARIABLE.encode():
                return value.decode(errors="replace")
        process = int(stat.rpartition(")")[2].split()[1])
    return ""
