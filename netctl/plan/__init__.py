"""Desired and actual state to an ordered list of changes, purely (floor F1)."""

from netctl.plan.changes import Change
from netctl.plan.describe import describe, plan_to_json, summary
from netctl.plan.diff import Plan, diff

__all__ = ["Change", "Plan", "describe", "diff", "plan_to_json", "summary"]
