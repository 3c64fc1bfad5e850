"""How we start ourselves: the interpreter that runs, never code of the directory that somebody is in.

`python -m` and `python -c` put the current directory first on the path of modules, so that root, standing in a
directory of somebody else's, would run that one's `netctl/__init__.py`. `-P` takes it off (since Python 3.11).
"""

from __future__ import annotations

import os
import re
import sys

_SECRET = re.compile(r"_proxy$|token|passw|secret|^git_|^ansible_|^netctl_sync", re.IGNORECASE)
"""Names of variables that may hold a password: proxies with one in their URL, tokens of an operator's session."""


def environment(**more: str) -> dict[str, str]:
    """This process's environment for a child that reads what strangers send: without what may be a password."""
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
