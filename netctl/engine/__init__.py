"""Reads and changes the actual state of the host: links, routes, filter, WireGuard (floor F3)."""

from netctl.engine.api import Engine, Restored
from netctl.engine.applyplan import apply_plan, apply_prune
from netctl.engine.fake import FakeEngine
from netctl.engine.linux import open_engine
from netctl.model.outcome import ApplyOutcome

__all__ = ["ApplyOutcome", "Engine", "FakeEngine", "Restored", "apply_plan", "apply_prune", "open_engine"]
