"""Ansible, driven by ansible-runner: one playbook on some hosts, told event by event."""

from __future__ import annotations

import contextlib
import importlib.resources
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netctl.model.errors import LocalError

FORKS = 10
"""Hosts at once; each is a process of Ansible on this machine."""
MAX_WHY = 300
"""Characters of a reason: the table has one line a host."""
NEEDS = "netctl rollout needs Ansible: pip install 'netctl[fleet]'"


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What one task did on one host."""

    host: str
    task: str
    state: str
    """``ok``, ``failed``, ``unreachable``, ``skipped`` or ``start``."""
    changed: bool
    result: Mapping[str, Any]

    @property
    def why(self) -> str:
        """Why it failed, in one line."""
        result = self.result
        said = str(
            result.get("stderr") or result.get("msg") or result.get("module_stderr") or "no reason given"
        )
        lines = [line for line in said.splitlines() if line.strip()] or ["no reason given"]
        wrong = [line for line in lines if line.startswith("error: ")]
        return (wrong[-1].removeprefix("error: ") if wrong else lines[0])[:MAX_WHY]


KEEP_ASKING = "-o ServerAliveInterval=4 -o ServerAliveCountMax=3"
"""A connection that OpenSSH keeps for the next task hangs for ever on a host that is gone, unless it asks."""
OnResult = Callable[[TaskResult], None]
EVENTS = {
    "runner_on_start": "start",
    "runner_on_ok": "ok",
    "runner_on_failed": "failed",
    "runner_on_unreachable": "unreachable",
    "runner_on_skipped": "skipped",
}


def program(name: str) -> str:
    """One of Ansible's programs: beside the running interpreter, else on the PATH. Raises LocalError."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise LocalError(NEEDS)
    return found


def environment() -> dict[str, str]:
    """Ansible's environment: our roles, quiet, and the ansible.cfg of the directory that one is in."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '/usr/bin:/bin')}"
    own = {"PATH": path, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_RETRY_FILES_ENABLED": "0"}
    roles = [str(roles_directory()), *filter(None, [os.environ.get("ANSIBLE_ROLES_PATH")])]
    own["ANSIBLE_ROLES_PATH"] = ":".join(roles)
    own["ANSIBLE_PYTHON_INTERPRETER"] = os.environ.get("ANSIBLE_PYTHON_INTERPRETER", "auto_silent")
    own["ANSIBLE_SSH_COMMON_ARGS"] = f"{os.environ.get('ANSIBLE_SSH_COMMON_ARGS', '')} {KEEP_ASKING}".strip()
    if "ANSIBLE_CONFIG" not in os.environ and Path("ansible.cfg").is_file():
        own["ANSIBLE_CONFIG"] = str(Path("ansible.cfg").resolve())
    return {**os.environ, **own}


def roles_directory() -> Path:
    """Our roles: in the installed package, or in the checkout beside it."""
    packaged = Path(str(importlib.resources.files("netctl"))) / "roles"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "roles"


@contextlib.contextmanager
def private_directory() -> Iterator[Path]:
    """A directory for Ansible's data that only this user can read, removed at the end whatever happens."""
    path = Path(tempfile.mkdtemp(prefix="netctl-rollout-"))  # 0700, says mkdtemp
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def play(
    private: Path,
    plays: Sequence[Mapping[str, Any]],
    inventory: str | Mapping[str, Any],
    hosts: Sequence[str],
    on_result: OnResult,
    *,
    check: bool = False,
    diff: bool = False,
    variables: Mapping[str, Any] | None = None,
    become: bool = False,
) -> str:
    """Run plays on `hosts`; the words of Ansible when it could not even begin, else empty. Raises LocalError."""
    try:
        import ansible_runner
    except ImportError as error:
        raise LocalError(NEEDS) from error
    program("ansible-playbook")

    ended = False

    def on_event(event: dict[str, Any]) -> bool:
        nonlocal ended
        ended = ended or event.get("event") == "playbook_on_stats"
        state = EVENTS.get(event.get("event", ""))
        data = event.get("event_data", {})
        if state is not None and "host" in data:
            result = data.get("res") or {}
            if state == "failed" and data.get("ignore_errors"):
                state = "ok"
            changed = state == "ok" and bool(result.get("changed"))
            on_result(TaskResult(data["host"], str(data.get("task", "")), state, changed, result))
        return False  # nothing of it is kept on disk

    options = [
        word for word, wanted in (("--check", check), ("--diff", diff), ("--become", become)) if wanted
    ]
    done = ansible_runner.run(
        private_data_dir=str(private),
        playbook=[dict(play) for play in plays],
        inventory=inventory if isinstance(inventory, str) else dict(inventory),
        limit=",".join(hosts),
        extravars=dict(variables or {}),
        envvars=environment(),
        forks=min(FORKS, len(hosts)),
        cmdline=" ".join(options) or None,
        event_handler=on_event,
        quiet=True,
        suppress_env_files=True,
    )
    with done.stdout as file:
        words: list[str] = file.read().strip().splitlines()
    return "" if ended else (words[-1] if words else f"ansible-playbook ended with {done.rc}")[:MAX_WHY]
