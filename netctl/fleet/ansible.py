"""Ansible, driven by ansible-runner: one playbook on some hosts, told event by event."""

from __future__ import annotations

import contextlib
import importlib.resources
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from netctl.model.errors import LocalError
from netctl.system.files import is_ours, write_atomic

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


CONFIG = "ansible.cfg"
KEEP_ASKING = "-o ServerAliveInterval=4 -o ServerAliveCountMax=3"
"""A connection that OpenSSH keeps for the next task hangs for ever on a host that is gone, unless it asks."""
OnResult = Callable[[TaskResult], None]


@dataclass(frozen=True, slots=True)
class Variables:
    """The user's own variables for Ansible and the role."""

    values: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    """Files that Ansible reads itself: for secrets, which stand in no argv then."""


NO_VARIABLES = Variables()
Connections = Mapping[str, Mapping[str, Any]]
"""Hosts with what Ansible needs to reach each (`ansible_host`, `ansible_user`, `ansible_port`)."""
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
    if own_config():
        own["ANSIBLE_CONFIG"] = str(Path(CONFIG).resolve())
    return {**os.environ, **own}


def own_config() -> bool:
    """Whether the ansible.cfg of the current directory counts: where nobody but this user and root can have made it.

    It says what programs Ansible runs, so Ansible itself reads none in a directory that everybody may write to. As
    its plays run in a directory of theirs, it has to be told of the file, and so it could not judge that.
    """
    return "ANSIBLE_CONFIG" not in os.environ and is_ours(Path(CONFIG))


def passed_over() -> str:
    """Why an ansible.cfg that is there is not read; empty when there is none, or it is."""
    if "ANSIBLE_CONFIG" in os.environ or not Path(CONFIG).is_file() or own_config():
        return ""
    where = Path(CONFIG).resolve()
    return f"{where} is not read: others may write there or own it; ANSIBLE_CONFIG={where} says to read it all the same"


class _Unsafe(str):
    """Text that Ansible takes as it is: no template, no lookup (`!unsafe`)."""


class _Dumper(yaml.SafeDumper):
    """Writes all texts so."""


_Dumper.add_representer(
    _Unsafe, lambda dumper, text: dumper.represent_scalar("!unsafe", str(text), style='"')
)


def _unsafe(value: Any) -> Any:
    if isinstance(value, str):
        return _Unsafe(value)
    if isinstance(value, Mapping):
        return {key: _unsafe(entry) for key, entry in value.items()}
    return [_unsafe(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def as_data(value: Any) -> str:
    """YAML for Ansible in which no text is a template."""
    return yaml.dump(_unsafe(value), Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=10**6)


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
    inventory: str | Connections,
    hosts: Sequence[str],
    on_result: OnResult,
    *,
    check: bool = False,
    diff: bool = False,
    variables: Variables = NO_VARIABLES,
    data: Mapping[str, Any] | None = None,
    become: bool = False,
) -> str:
    """Run plays on `hosts`; the words of Ansible when it could not even begin, else empty. Raises LocalError.

    `variables` are the user's own and templates as ever; `data` is ours, and what others wrote: no template. Both go
    by files in `private`, for an argv is everybody's to read.
    """
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
    options += [word for path in variables.files for word in ("-e", f"@{path}")]
    for name, text in (("own.json", json.dumps(dict(variables.values))), ("data.yaml", as_data(data or {}))):
        write_atomic(private / name, text)
        options += ["-e", f"@{private / name}"]
    limit: str | None = ",".join(hosts)
    if not isinstance(inventory, str):  # only these hosts are in it: a member may well be called `all`
        chosen = {"all": {"hosts": {host: inventory[host] for host in hosts}}}
        write_atomic(private / "hosts.yaml", as_data(chosen))
        inventory, limit = str(private / "hosts.yaml"), None
    done = ansible_runner.run(
        private_data_dir=str(private),
        playbook=[dict(play) for play in plays],
        inventory=inventory,
        limit=limit,
        envvars=environment(),
        forks=min(FORKS, len(hosts)),
        cmdline=shlex.join(options),
        event_handler=on_event,
        quiet=True,
        suppress_env_files=True,
    )
    with done.stdout as file:
        words: list[str] = file.read().strip().splitlines()
    return "" if ended else (words[-1] if words else f"ansible-playbook ended with {done.rc}")[:MAX_WHY]
