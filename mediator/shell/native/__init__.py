"""Loads the relay's forwarding in C (`_forward`, built by `hatch_build.py` if there is a C compiler).

Without it the relay does the same in Python. `load` shows which one a relay started here would use.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mediator.shell.native._forward import Forwarder

SWITCH = "NETCTL_RELAY_NATIVE"
"""Environment variable: 0 selects Python."""


def load() -> Forwarder | None:
    """A new forwarder; None: switched off or not built."""
    if os.environ.get(SWITCH, "") == "0":
        return None
    try:
        core = importlib.import_module("mediator.shell.native._forward")
    except ImportError:
        return None
    made: Forwarder = core.Forwarder()
    return made
