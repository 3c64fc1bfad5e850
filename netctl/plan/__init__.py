"""Compares desired and actual state and returns an ordered list of changes; pure (floor F1)."""

from netctl.plan.binding import Binding, state_digest
from netctl.plan.changes import Change
from netctl.plan.describe import describe, plan_to_json, summary
from netctl.plan.diff import Plan, diff, prune
from netctl.plan.session import Session, carrier, drops

__all__ = [
    "Binding",
    "Change",
    "Plan",
    "Session",
    "carrier",
    "describe",
    "diff",
    "drops",
    "plan_to_json",
    "prune",
    "state_digest",
    "summary",
]
