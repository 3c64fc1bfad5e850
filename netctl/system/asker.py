"""The name of the person who runs this process, for a log: the kernel's login user, also behind sudo and su."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

UNSET = 2**32 - 1
"""`loginuid` of a process that no login started, such as a service or a container (proc_pid_loginuid(5))."""
MAX_NAME = 64


def asker() -> str:
    """The login name behind this process; without one SUDO_USER, then the name of the user id. Root can forge it."""
    return (_of_login() or os.environ.get("SUDO_USER") or _name(os.getuid()))[:MAX_NAME]


def _of_login() -> str | None:
    try:
        number = int(Path("/proc/self/loginuid").read_text())
    except (OSError, ValueError):
        return None
    return _name(number) if number != UNSET else None


def _name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"
