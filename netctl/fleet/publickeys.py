"""Insert public keys into the text of a document; its other text and comments stay.

The changed text is then parsed again: the result must be the old document plus the keys.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from netctl.config.load.loader import parse
from netctl.model.errors import ConfigError, LocalError
from netctl.model.keys import IdentityKey, WireGuardKey


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """The public keys that a host reports."""

    wireguard: WireGuardKey
    identity: IdentityKey


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The text with the keys, and the members whose keys were added or differ."""

    text: str
    added: tuple[str, ...]
    differing: tuple[str, ...]
    """Members whose key in the document differs from the host's key: not changed."""


def read_keys(said: str) -> PublicKeys:
    """Keys from the output of `netctl keys show -o json`. Raises ValueError, KeyError or TypeError."""
    plain = json.loads(said)
    return PublicKeys(WireGuardKey.parse(plain["wireguard"]), IdentityKey.parse(plain["identity"]))


def enrol(text: str, file: str, keys: Mapping[str, PublicKeys], hosts: Mapping[str, str]) -> Enrolled:
    """Insert keys of members into a text. `hosts`: the `host` of each member that the text lacks.

    Raises ConfigError if the text is no YAML, LocalError if its layout does not allow the insertion.
    """
    tree = parse(text, file).tree
    if not isinstance(tree, dict) or not isinstance(tree.get("members", {}), dict):
        raise LocalError(f"{file} has no map of `members`: there is no place for keys")
    wanted: dict[str, Any] = copy.deepcopy(tree)
    members = wanted.setdefault("members", {})
    missing: dict[str, dict[str, str]] = {}
    differing = []
    for name, pair in keys.items():
        entry = members.get(name)
        said = {"wireguard": str(pair.wireguard), "identity": str(pair.identity)}
        if isinstance(entry, dict):
            if any(key in entry and entry[key] != value for key, value in said.items()):
                differing.append(name)
                continue
            new = {key: value for key, value in said.items() if key not in entry}
        else:
            new = {**said, **({"host": hosts[name]} if name in hosts else {})}
            entry = members[name] = {}
        if new:
            missing[name] = new
            members[name] = {**entry, **new}
    result = text
    for name, new in missing.items():
        result = _insert(result, name, new)
    try:
        proved = parse(result, file).tree == wanted
    except ConfigError:
        proved = False
    if not proved:
        lines = "\n".join(f"  {name}: {_flow(new)}" for name, new in missing.items())
        raise LocalError(f"the layout of {file} is too odd to write into; add this by hand:\n{lines}")
    return Enrolled(result, tuple(missing), tuple(differing))


def _flow(new: Mapping[str, str]) -> str:
    return "{" + ", ".join(f'{key}: "{value}"' for key, value in new.items()) + "}"


def _child(node: Any, name: str) -> tuple[Any, Any]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == name:
                return key, value
    return None, None


def _insert(text: str, name: str, new: Mapping[str, str]) -> str:
    """The text with `new` under members.NAME, in the YAML style (block or flow) of the place."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    _, members = _child(root, "members")
    key, entry = _child(members, name)
    if isinstance(entry, yaml.MappingNode) and (entry.flow_style or entry.value):
        return _into(text, entry, new)
    line = f"{name}: {_flow(new)}"
    if key is not None and entry is not None:  # `nas:` without a value
        return (
            text[: key.end_mark.index]
            + f": {_flow(new)}"
            + text[max(entry.end_mark.index, key.end_mark.index + 1) :]
        )
    if isinstance(members, yaml.MappingNode) and members.value and not members.flow_style:
        first = members.value[0][0].start_mark
        at = first.index - first.column
        return f"{text[:at]}{' ' * first.column}{line}\n{text[at:]}"
    if isinstance(members, yaml.MappingNode):
        return _into(text, members, {}, line)
    separator = "" if text.endswith("\n") or not text else "\n"
    return f"{text}{separator}members:\n  {line}\n"


def _into(text: str, node: Any, new: Mapping[str, str], line: str = "") -> str:
    pairs = [f'{key}: "{value}"' for key, value in new.items()] or [line]
    if node.flow_style:
        at = node.start_mark.index + 1
        rest = text[at:]
        return text[:at] + ", ".join(pairs) + ("" if rest.lstrip().startswith("}") else ", ") + rest
    mark = node.value[0][0].start_mark
    at = mark.index - mark.column
    return text[:at] + "".join(f"{' ' * mark.column}{pair}\n" for pair in pairs) + text[at:]
