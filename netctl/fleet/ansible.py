"""Run plays on hosts by ansible-runner, and report every task of every host by a callback."""

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
"""Most hosts at the same time; each is a process of Ansible on this machine."""
MAX_WHY = 300
"""Characters of a reason: the table has one line per host."""
NEEDS = "netctl rollout needs Ansible: pip install 'netctl[fleet]'"


@dataclass(frozen=True, slots=True)
class TaskResult:
    """The result of one task on one host."""

    host: str
    task: str
    state: str
    """``ok``, ``failed``, ``unreachable``, ``skipped`` or ``start``."""
    changed: bool
    result: Mapping[str, Any]

    @property
    def why(self) -> str:
        """Why the task failed, in one line."""
        result = self.result
        said = str(
            result.get("stderr") or result.get("msg") or result.get("module_stderr") or "no reason given"
        )
        lines = [line for line in said.splitlines() if line.strip()] or ["no reason given"]
        wrong = [line for line in lines if line.startswith("error: ")]
        return (wrong[-1].removeprefix("error: ") if wrong else lines[0])[:MAX_WHY]


CONFIG = "ansible.cfg"
"""Ansible's configuration file in the working directory, which Ansible reads by itself."""
KEEP_ASKING = "-o ServerAliveInterval=4 -o ServerAliveCountMax=3"
"""Keepalives: without them, a connection that OpenSSH keeps for the next task hangs for ever if the host is gone."""
OnResult = Callable[[TaskResult], None]


@dataclass(frozen=True, slots=True)
class Variables:
    """The user's own variables for Ansible and the role."""

    values: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    """Files of variables that Ansible reads itself, so that secrets are in no argv."""


NO_VARIABLES = Variables()
Connections = Mapping[str, Mapping[str, Any]]
"""Connection variables by host (`ansible_host`, `ansible_user`, `ansible_port`)."""
EVENTS = {
    "runner_on_start": "start",
    "runner_on_ok": "ok",
    "runner_on_failed": "failed",
    "runner_on_unreachable": "unreachable",
    "runner_on_skipped": "skipped",
}


def program(name: str) -> str:
    """The path of a program of Ansible: beside the running interpreter, else on the PATH. Raises LocalError."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise LocalError(NEEDS)
    return found


def environment() -> dict[str, str]:
    """Environment for Ansible: our roles, less output, and the ansible.cfg of the current directory if it is safe."""
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
    """Whether to use the ansible.cfg of the current directory: only if nobody but this user and root could write it.

    The file names programs that Ansible runs, so Ansible ignores it in a world-writable directory. Our plays run in
    another directory, so we pass the file by ANSIBLE_CONFIG, and then Ansible does not check the directory.
    """
    return "ANSIBLE_CONFIG" not in os.environ and is_ours(Path(CONFIG))


def passed_over() -> str:
    """Why the ansible.cfg of the current directory is not read; empty: it is read, or there is none."""
    if "ANSIBLE_CONFIG" in os.environ or not Path(CONFIG).is_file() or own_config():
        return ""
    where = Path(CONFIG).resolve()
    return f"{where} is not read: others may write there or own it; ANSIBLE_CONFIG={where} says to read it all the same"


class _Unsafe(str):
    """Text that Ansible does not evaluate as a template or lookup (`!unsafe`)."""


class _Dumper(yaml.SafeDumper):
    """Writes every `_Unsafe` text with the tag `!unsafe`."""


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
    """A value as YAML for Ansible, with every text marked as no template."""
    return yaml.dump(_unsafe(value), Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=10**6)


def roles_directory() -> Path:
    """The directory of our roles: in the installed package, else in the checkout."""
    packaged = Path(str(importlib.resources.files("netctl"))) / "roles"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "roles"


@contextlib.contextmanager
def private_directory() -> Iterator[Path]:
    """A directory for Ansible's data that only this user can read; always removed at the end."""
    path = Path(tempfile.mkdtemp(prefix="netctl-rollout-"))  # mkdtemp sets mode 0700
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
    """Run plays on `hosts`. Returns Ansible's last line if the play did not reach its end, else "". Raises LocalError.

    Ansible evaluates templates in `variables` (the user's), but not in `data` (ours, and text of other origin). Both
    are passed by files in `private`, since every user can read an argv.
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
        return False  # ansible-runner then keeps no event on disk

    options = [
        word for word, wanted in (("--check", check), ("--diff", diff), ("--become", become)) if wanted
    ]
    options += [word for path in variables.files for word in ("-e", f"@{path}")]
    for name, text in (("own.json", json.dumps(dict(variables.values))), ("data.yaml", as_data(data or {}))):
        write_atomic(private / name, text)
        options += ["-e", f"@{private / name}"]
    limit: str | None = ",".join(hosts)
    if not isinstance(inventory, str):  # only these hosts, as a limit fails for a host called `all`
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
