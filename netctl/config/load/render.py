"""Formats a finding for people, for programs, and for a code host's annotations."""

from __future__ import annotations

from collections.abc import Mapping

from netctl.config.load.loader import clean
from netctl.model.errors import Finding

CONTEXT_COLUMNS = 100
"""Columns of the offending line that are shown: they fit beside the line number on a terminal."""


def excerpt(finding: Finding, text: str) -> tuple[str, ...]:
    """The offending line and a caret under the column; empty when the finding has no place in the text."""
    lines = text.splitlines()
    mark = finding.mark
    if mark is None or not 0 < mark.line <= len(lines):
        return ()
    line = lines[mark.line - 1]
    start = max(0, mark.column - 1 - CONTEXT_COLUMNS // 2) if len(line) > CONTEXT_COLUMNS else 0
    shown = "".join(
        letter if letter.isprintable() else " " for letter in line[start : start + CONTEXT_COLUMNS]
    )
    margin = f"{mark.line:>6} | "
    return (margin + shown, " " * (len(margin) - 2) + "| " + " " * (mark.column - 1 - start) + "^")


def to_json(finding: Finding) -> Mapping[str, str | int | None]:
    """A finding as a flat map with stable keys."""
    mark = finding.mark
    return {
        "code": finding.code,
        "severity": finding.severity,
        "path": finding.path,
        "message": finding.message,
        "hint": finding.hint,
        "file": mark.file if mark else None,
        "line": mark.line if mark else None,
        "column": mark.column if mark else None,
    }


def to_github(finding: Finding) -> str:
    """One workflow command (``::error file=…,line=…::message``) that a code host shows beside the line."""
    mark = finding.mark
    where = f" file={_property(mark.file)},line={mark.line},col={mark.column}," if mark else " "
    words = f"{finding.path}: {finding.message}" + (f" ({finding.hint})" if finding.hint else "")
    return f"::{finding.severity}{where}title={_property(finding.code)}::{_data(words)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(clean(text)).replace(":", "%3A").replace(",", "%2C")
