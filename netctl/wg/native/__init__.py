"""The data path in C (`_core`, built by `hatch_build.py` where a compiler and OpenSSL's headers are), and its switch.

Without it everything works as well, in Python. `describe` says which one a netctl-wg started here would use.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

SWITCH = "NETCTL_WG_NATIVE"
"""Environment: 0 keeps netctl-wg to Python."""
BUSY_POLL = "NETCTL_WG_BUSY_POLL_US"
"""Environment: microseconds that netctl-wg looks for the next packet without sleeping, 0 (default) to 1000."""
MAX_BUSY_POLL_US = 1000
"""A millisecond: longer than any answer is waited for on a LAN, and no more than a timer tick of a core."""

THREADS = "NETCTL_WG_THREADS"
"""Environment: threads that seal and open packets, 1 to 8; `default_threads` unless given."""
MAX_THREADS = 8
"""As MAX_THREADS of core.h."""
MOST_BY_DEFAULT = 4
"""Of 1.8 µs for a packet 0.5 to 0.7 stay with the thread that reads and writes: a fifth finds nothing to do."""


def load() -> tuple[ModuleType | None, str]:
    """(the module, or None; why not, or what it is built with)."""
    if os.environ.get(SWITCH, "") == "0":
        return None, f"{SWITCH}=0"
    if sys.platform != "linux":
        return None, "not on Linux"
    try:
        core = importlib.import_module("netctl.wg.native._core")
    except ImportError as error:
        missing = error.name == "netctl.wg.native._core"
        return (
            None,
            "the native module was not built" if missing else f"the native module does not load: {error}",
        )
    return core, str(core.OPENSSL)


def describe() -> str:
    """One line for people: `native (OpenSSL 3.0.19 …)` or `Python (why)`."""
    core, why = load()
    return f"native ({why})" if core is not None else f"Python ({why})"


def default_threads(cores: int) -> int:
    """One on two cores: whoever makes the packets wants the other. Then all but one."""
    return 1 if cores <= 2 else min(cores - 1, MOST_BY_DEFAULT)


def threads() -> tuple[int, str]:
    """(how many threads seal and open, what is wrong with the environment's number, or nothing)."""
    by_default = default_threads(len(os.sched_getaffinity(0)))
    text = os.environ.get(THREADS, "")
    if not text:
        return by_default, ""
    number = int(text) if text.isascii() and text.isdigit() and len(text) == 1 else 0
    if 1 <= number <= MAX_THREADS:
        return number, ""
    return by_default, f"{THREADS}={text[:20]!r} is no number from 1 to {MAX_THREADS}: {by_default} taken"


def busy_poll_s() -> float:
    """Of the environment, in seconds; 0 for what is no number of microseconds in 0-1000."""
    text = os.environ.get(BUSY_POLL, "0")
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else 0
    return number / 1e6 if number <= MAX_BUSY_POLL_US else 0.0
