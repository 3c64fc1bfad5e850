"""The hosts of a roll-out: from networks.yaml, or from the user's own Ansible inventory."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netctl.config.load.loader import clean
from netctl.config.load.schema import fits_definition
from netctl.fleet.ansible import Connections, environment, program
from netctl.model.document import Document, MemberState
from netctl.model.errors import LocalError

INVENTORY_TIMEOUT_S = 60.0
PLAIN_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")
"""Host names that are no pattern to Ansible; `*`, `:`, `,`, `&`, `!`, `[`, `~`, `@` mean several hosts or none."""
GROUPS = frozenset({"all", "ungrouped"})
"""Names that Ansible takes for groups of hosts."""
MEMBER_VARIABLE = "netctl_member"
"""Variable in the user's own inventory that names the member of a host, if the host's name there differs."""
HostVariables = dict[str, Any]
"""Ansible's variables of one host. Ansible defines their names and types."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """The hosts of a roll-out and their members."""

    source: str | Connections
    """The path of the user's own inventory, or the hosts with their connection variables."""
    hosts: Mapping[str, str] = field(default_factory=dict)
    """Member by inventory host, in the document's order."""
    left_out: tuple[str, ...] = ()
    """Members without a host, and for the user's own inventory also hosts without a member."""


def split_host(text: str) -> HostVariables:
    """``admin@nas.example.net:2222`` as Ansible's connection variables. Raises LocalError for anything else.

    Ansible passes the host to ssh as a separate argument, and ssh would take a leading ``-`` for an option.
    """
    if not fits_definition("host", text):
        raise LocalError(f"{clean(text)!r} is no host: [USER@]HOST[:PORT], with IPv6 in brackets")
    user, at, place = text.rpartition("@")
    host, colon, port = place.rpartition(":")
    if not colon or not port.isdigit() or (":" in host and not host.startswith("[")):
        host, port = place, ""
    variables: HostVariables = {"ansible_host": host.strip("[]")}
    if at:
        variables["ansible_user"] = user
    if port:
        variables["ansible_port"] = int(port)
    return variables


def connections(hosts: Iterable[tuple[str, str]]) -> dict[str, HostVariables]:
    """Ansible's connection variables by member, from pairs of member and `host`. Raises LocalError."""
    found = {}
    for name, host in hosts:
        if not fits_definition("name", name):
            raise LocalError(f"{clean(name)!r} is no name of a member: see `netctl validate`")
        if name in GROUPS:
            raise LocalError(
                f"'{name}' means every host to Ansible: give this member another name, or no `host`"
            )
        found[name] = split_host(host)
    return found


def from_document(document: Document) -> Inventory:
    """The inventory from the `host` of the document's members. Raises LocalError if no member has a `host`."""
    present = [member for member in document.members.values() if member.state is MemberState.PRESENT]
    found = connections((member.name, member.host) for member in present if member.host)
    if not found:
        raise LocalError(
            "no member has a `host`: say where it is (members.NAME.host: admin@nas.example.net), "
            "or name your own inventory with -i"
        )
    left = tuple(member.name for member in present if not member.host)
    return Inventory(found, {name: name for name in found}, left)


def listed(path: Path) -> dict[str, HostVariables]:
    """The hosts of an Ansible inventory with their variables. Raises LocalError."""
    # Absolute: Ansible takes a relative path with a comma for a list of hosts.
    command = [program("ansible-inventory"), "-i", str(path.resolve()), "--list"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment(),
            timeout=INVENTORY_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise LocalError(f"the inventory {path} cannot be read: {done.stderr.strip()[-300:]}")
        plain = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise LocalError(f"the inventory {path} cannot be read: {error}") from error
    variables = plain.get("_meta", {}).get("hostvars", {})
    names: dict[str, None] = dict.fromkeys(variables)
    for group in plain.values():
        names.update(dict.fromkeys(group.get("hosts", ()) if isinstance(group, dict) else ()))
    return {name: variables.get(name, {}) for name in names}


def from_file(path: Path, document: Document) -> Inventory:
    """The inventory from the user's own file. Raises LocalError if none of its hosts is a member."""
    if not path.exists():
        raise LocalError(f"there is no inventory {path}")
    found = {name: str(more.get(MEMBER_VARIABLE, name)) for name, more in listed(path).items()}
    members = {member.name for member in document.members.values() if member.state is MemberState.PRESENT}
    mine = {host: member for host, member in found.items() if member in members}
    if not mine:
        raise LocalError(
            f"no host of {path} is a member of the document: name them alike, or set {MEMBER_VARIABLE}"
        )
    odd = [host for host in mine if not PLAIN_NAME.fullmatch(host) or host in GROUPS]
    if odd:
        raise LocalError(
            f"{clean(odd[0])!r} in {path} is more than a host to Ansible: name hosts by letters, digits, '_', '.', '-'"
        )
    order = {name: number for number, name in enumerate(document.members)}
    hosts = dict(sorted(mine.items(), key=lambda item: order[item[1]]))
    left = sorted(members - set(mine.values())) + [host for host in found if host not in mine]
    return Inventory(str(path.resolve()), hosts, tuple(left))
