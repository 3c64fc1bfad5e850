"""The release before this one, out of Git: what members and mediators that are not upgraded yet run."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERSION = "0.1.0"
COMMIT = "73020d5bce794c7adba92ad201afc1b149de8de0"
"""The commit of that release. With a new release both move to the one before it (docs/compatibility.md)."""
NEEDED = ("netctl", "mediator", "schemas", "roles")


def why_not() -> str | None:
    """Why it cannot be had here: a clone without history. None: it can."""
    done = subprocess.run(["git", "-C", ROOT, "cat-file", "-e", f"{COMMIT}^{{commit}}"], capture_output=True)
    return f"compat: Git has no commit {COMMIT[:12]} here (a shallow clone?)" if done.returncode else None


def unpacked(into: Path) -> Path:
    """Its code, for PYTHONPATH. It runs on the locked packages of today."""
    into.mkdir()
    done = subprocess.run(["git", "-C", ROOT, "archive", COMMIT, *NEEDED], capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", into], input=done.stdout, check=True)
    return into
