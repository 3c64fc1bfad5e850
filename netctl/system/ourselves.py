"""Command lines to start our own programs: with the running interpreter, and never with code of the current directory.

`python -m` and `python -c` put the current directory first on the module path, so root would run the
`netctl/__init__.py` of another user's directory. `-P` removes the current directory (since Python 3.11).
"""

from __future__ import annotations

import os
import re
import sys

_SECRET = re.compile(r"_proxy$|token|passw|secret|^git_|^ansible_|^netctl_sync", re.IGNORECASE)
"""Names of variables that may hold a password: proxies with one in the URL, tokens of an operator's session."""


def environment(**more: str) -> dict[str, str]:
    """This process's environment without possible passwords, for a child that reads untrusted input."""
    return {name: value for name, value in os.environ.items() if not _SECRET.search(name)} | more


def module(name: str, *arguments: str) -> list[str]:
    """The argv that runs one of our modules."""
    return [sys.executable, "-P", "-m", name, *arguments]


def code(text: str, *arguments: str) -> list[str]:
    """The argv that runs a piece of Python."""
    return [sys.executable, "-P", "-c", text, *arguments]


def own_command(*arguments: str) -> list[str]:
    """The argv of one of our own commands."""
    return module("netctl.cli.main", *arguments)
