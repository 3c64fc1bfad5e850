"""Checks the privileges of this process before anything is changed."""

from __future__ import annotations

import os
from pathlib import Path

from netctl.model.errors import LocalError

CAP_NET_ADMIN = 12  # linux/capability.h
TUN = Path("/dev/net/tun")


def has_net_admin() -> bool:
    """Whether the effective capabilities include CAP_NET_ADMIN."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) & (1 << CAP_NET_ADMIN))
    return False


def check_privileges(*, tun: bool = False) -> None:
    """Raise LocalError, in one line that says what to do, when this process cannot change the network."""
    if not has_net_admin():
        raise LocalError("changing the network needs root (CAP_NET_ADMIN): run this with sudo")
    if tun and not os.access(TUN, os.R_OK | os.W_OK):
        raise LocalError(
            f"{TUN} is missing or not accessible: `modprobe tun`, or pass the device to the container"
        )
