"""Loads the data path in C (`_core`, built by `hatch_build.py` with a compiler and OpenSSL's headers), and its options.

Without `_core`, netctl-wg moves packets in Python. `describe` names the data path that a netctl-wg started here uses.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

SWITCH = "NETCTL_WG_NATIVE"
"""Environment variable: 0 makes netctl-wg move packets in Python."""
BUSY_POLL = "NETCTL_WG_BUSY_POLL_US"
"""Environment variable: microseconds for which netctl-wg polls for packets before it sleeps, 0 (default) to 1000."""
MAX_BUSY_POLL_US = 1000
"""A millisecond: longer than an answer on a LAN takes, and no more than a timer tick of a core."""

THREADS = "NETCTL_WG_THREADS"
"""Environment variable: threads that encrypt and decrypt packets, 1 to 8; default: `default_threads`."""
MAX_THREADS = 8
"""The same as MAX_THREADS of core.h."""
MOST_BY_DEFAULT = 4
"""Of 1.8 µs for a packet, the thread that reads and writes needs 0.5 to 0.7 µs: a fifth thread would be idle."""


def load() -> tuple[ModuleType | None, str]:
    """The native module and its OpenSSL version, or None and why it is not used."""
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
    """Threads by default: one on two cores, since the packets' program needs the other; else cores - 1, at most 4."""
    return 1 if cores <= 2 else min(cores - 1, MOST_BY_DEFAULT)


def threads() -> tuple[int, str]:
    """The number of threads that encrypt and decrypt, and what is wrong with the environment's number, or ""."""
    by_default = default_threads(len(os.sched_getaffinity(0)))
    text = os.environ.get(THREADS, "")
    if not text:
        return by_default, ""
    number = int(text) if text.isascii() and text.isdigit() and len(text) == 1 else 0
    if 1 <= number <= MAX_THREADS:
        return number, ""
    return by_default, f"{THREADS}={text[:20]!r} is no number from 1 to {MAX_THREADS}: {by_default} taken"


def busy_poll_s() -> float:
    """The environment's polling time in seconds; 0 for an invalid number of microseconds."""
    text = os.environ.get(BUSY_POLL, "0")
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else 0
    return number / 1e6 if number <= MAX_BUSY_POLL_US else 0.0
