"""All terminal output of the commands of `netctl-mediator`. stdout carries results, stderr carries messages.

Terminal control sequences are removed from text of other origin (a member's name, a document).
"""

from __future__ import annotations

import json as _json
import sys
from typing import Any

from netctl.model.printable import printable_json, printable_lines


def line(text: str = "") -> None:
    """Print a line of the result."""
    print(printable_lines(text), flush=True)


def json(value: Any) -> None:
    """Print the result for programs, as JSON."""
    print(printable_json(_json.dumps(value, indent=2)), flush=True)


def note(text: str) -> None:
    """Print a message that is no part of the result."""
    print(printable_lines(text), file=sys.stderr, flush=True)


def warning(text: str) -> None:
    """Print a warning: something works, but the user should know of a detail."""
    note(f"warning: {text}")


def error(text: str) -> None:
    """Print an error in one line: what went wrong and what to do."""
    note(f"netctl-mediator: {text}")
