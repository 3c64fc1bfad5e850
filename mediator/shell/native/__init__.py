"""The relay's forwarding in C (`_forward`, built by `hatch_build.py` where a C compiler is), and its switch.

Without it the relay does the same in Python. `load` says which one a relay started here would use.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mediator.shell.native._forward import Forwarder

SWITCH = "NETCTL_RELAY_NATIVE"
"""Environment: 0 keeps the relay to Python."""


def load() -> Forwarder | None:
    """A new one; None where it is switched off or was not built."""
    if os.environ.get(SWITCH, "") == "0":
        return None
    try:
        core = importlib.import_module("mediator.shell.native._forward")
    except ImportError:
        return None
    made: Forwarder = core.Forwarder()
    return made
