"""The session that a command was typed in is found through its parents, as under sudo."""

from __future__ import annotations

import subprocess
import sys

SESSION = "192.0.2.9 50000 10.8.0.1 22"
ASK = "from netctl.cli.sshsession import ssh_connection as s; print(repr(s()))"
CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ASK!r}], env={{}}, check=True)"


def said(code: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_its_own_environment_comes_first() -> None:
    assert said(ASK, {"SSH_CONNECTION": SESSION}) == repr(SESSION)
    assert said(ASK, {"SSH_CONNECTION": ""}) == "''"


def test_a_parent_has_what_sudo_took_away() -> None:
    assert said(CHILD, {"SSH_CONNECTION": SESSION}) == repr(SESSION)
