"""Record of a lab that outlives its command: `lab up` writes the record, the other commands read it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from netctl.lab.internet import Lab
from netctl.lab.namespaces import Holder, Node
from netctl.model.errors import LocalError
from netctl.system.files import write_atomic


@dataclass(frozen=True, slots=True)
class SavedLab:
    """The record of a running lab. `places`: for each member, the box it is behind, as text."""

    holder: Holder
    file: str
    members: dict[str, Node]
    others: dict[str, Node]
    places: dict[str, str]

    def node(self, name: str) -> Node:
        """A host by name. Raises LocalError, which lists the hosts."""
        hosts = {**self.members, **self.others}
        if name not in hosts:
            raise LocalError(f"no host {name!r} in this lab: there are {', '.join(hosts)}")
        return hosts[name]


def directory() -> Path:
    """The directory of this user's record: NETCTL_LAB, root's in /run, else in the session's or temporary directory."""
    if chosen := os.environ.get("NETCTL_LAB"):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/run/netctl-lab")
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "netctl-lab" if base else Path(tempfile.gettempdir()) / f"netctl-lab-{os.geteuid()}"


def save(lab: Lab, file: Path) -> None:
    """Write the record of a running lab. Raises LocalError."""
    network = lab.network
    holder = network.holder
    places = {
        node.name: f"{box.name} ({box.kind}, {box.wan})" for box in lab.topology.boxes for node in box.members
    }
    record = {
        "file": str(file.resolve()),
        "holder": {"pid": holder.pid, "parent": holder.parent, "started": holder.started},
        "members": {name: [node.pid, dict(node.environment)] for name, node in network.members.items()},
        "others": {
            name: [node.pid, dict(node.environment)]
            for name, node in {**network.mediators, **network.boxes}.items()
        },
        "places": places,
    }
    _make_directory()
    path = directory() / "lab.json"
    write_atomic(path, json.dumps(record))


def _make_directory() -> None:
    """Make the directory, mode 0700. Raises LocalError if another user owns it, e.g. in a shared /tmp."""
    where = directory()
    try:
        where.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise LocalError(f"cannot make {where}: {error.strerror}") from error
    if where.is_symlink() or where.stat().st_uid != os.geteuid():
        raise LocalError(f"{where} is not ours: remove it, or set XDG_RUNTIME_DIR")


def load() -> SavedLab | None:
    """The running lab, or None. Removes the record of a lab that is gone. Raises LocalError if it is unreadable."""
    where = directory()
    path = where / "lab.json"
    with contextlib.suppress(OSError):
        if where.is_symlink() or where.stat().st_uid != os.geteuid():
            return None
    try:
        record = json.loads(path.read_text())
        holder = Holder(**record["holder"])
        members, others = (
            {name: Node(holder, name, pid, variables) for name, (pid, variables) in record[kind].items()}
            for kind in ("members", "others")
        )
        saved = SavedLab(holder, record["file"], members, others, record["places"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LocalError(f"cannot read {path}: remove it if no lab is running") from error
    if not saved.holder.alive:
        forget()
        return None
    return saved


def running() -> SavedLab:
    """The running lab. Raises LocalError if there is none."""
    saved = load()
    if saved is None:
        raise LocalError("no lab is running: start one with `netctl lab up FILE`")
    return saved


def forget() -> None:
    """Remove the record."""
    shutil.rmtree(directory(), ignore_errors=True)
