"""Turns a document's text into a Document, and a Document into a host's desired state, without I/O (floor F1)."""

from netctl.config.load.pipeline import Loaded, load_document
from netctl.config.reach.reachchanges import ReachChanges, reach_changes
from netctl.config.reach.reachtext import reach_lines, reach_to_json
from netctl.config.resolve.conflicts import clear_of
from netctl.config.resolve.pins import Judged, Pins, judge_leases
from netctl.config.resolve.resolution import Condition, Resolution, resolve

__all__ = [
    "Condition",
    "Judged",
    "Loaded",
    "Pins",
    "ReachChanges",
    "Resolution",
    "clear_of",
    "judge_leases",
    "load_document",
    "reach_changes",
    "reach_lines",
    "reach_to_json",
    "resolve",
]
