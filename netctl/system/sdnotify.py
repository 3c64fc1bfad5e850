"""Reports a service's state to systemd (sd_notify(3)): ready, stopping, alive. Without systemd nothing happens."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(message: str) -> bool:
    """Send ``READY=1``, ``STOPPING=1``, ``WATCHDOG=1`` or ``STATUS=…``. False: no systemd, or sending failed."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@"):
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.connect(address)
        out.sendall(message.encode())
        return True
    return False


def watchdog_s() -> float | None:
    """Seconds within which systemd expects ``WATCHDOG=1``; None: systemd does not watch this process."""
    try:
        interval = int(os.environ.get("WATCHDOG_USEC", ""))
        watched = int(os.environ.get("WATCHDOG_PID", str(os.getpid())))
    except ValueError:
        return None
    return interval / 1e6 if interval > 0 and watched == os.getpid() else None
