"""Every process of pytest lives apart from the machine: links, routes, tables, name, /etc, /run and state of its own.

What a test reads there is then the same on every machine, and what a test leaves there is gone with the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from netctl.lab.namespaces import OWN_PLACES, environment

CLONE_FS = 0x00000200
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWNET = 0x00020000, 0x04000000, 0x40000000
"""linux/sched.h; `os.unshare` came with Python 3.12."""
NAME = "netctl-tests"
SET_UP = f"""set -e
{OWN_PLACES}
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
own_places
# The files of /sys show the links of the namespace that mounted them.
mount -t sysfs sys /mnt
mount --rbind /sys/fs/cgroup /mnt/fs/cgroup
mount --move /mnt /sys
hostname {NAME}
ip link set lo up
"""


def why_not() -> str | None:
    """Why this process cannot leave the machine's namespaces; None when it can."""
    if os.geteuid() != 0:
        return "no root"  # an ordinary user changes nothing of the machine's
    if subprocess.run(["unshare", "--net", "--mount", "--uts", "true"], check=False).returncode:
        return "this root may make no namespaces"
    return None


_machines: list[int] = []
"""The machine's namespaces, of a process that has left them."""


def leave_the_machine() -> None:
    """Put this process, and all that it starts, into empty namespaces. Raises OSError, CalledProcessError."""
    _machines.extend(_current())
    if LIBC.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["sh", "-c", SET_UP], env=environment(), check=True)


def _current() -> list[int]:
    return [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("net", "uts", "mnt")]


def _enter(namespaces: list[int]) -> None:
    directory = Path.cwd()
    LIBC.unshare(CLONE_FS)  # threads share it, and with threads no mount namespace can be entered
    for descriptor in namespaces:
        if LIBC.setns(descriptor, 0) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    os.chdir(directory)  # with the mounts it became the root


@contextlib.contextmanager
def on_the_machine() -> Iterator[None]:
    """Back among the machine's namespaces for a while: for tests that are about the machine, or fetch packages."""
    own = _current()
    try:
        _enter(_machines)
        yield
    finally:
        _enter(own)
        for descriptor in own:
            os.close(descriptor)
