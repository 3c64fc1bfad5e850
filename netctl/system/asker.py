"""Who sits at the keyboard, for a log: the kernel's login user, where there is one, also behind sudo and su."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

UNSET = 2**32 - 1
"""`loginuid` of what no login started: a service, a container (proc_pid_loginuid(5))."""
MAX_NAME = 64


def asker() -> str:
    """The login name behind this process. It is what the process says of itself: root can say anything."""
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
