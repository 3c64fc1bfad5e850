"""Edits the text of a document and leaves every other word and comment where it is.

Edits are insertions at places that libyaml's nodes give. The result is parsed again and must equal the former
document with the change and nothing else; where a layout is too odd for that, nothing is changed.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from netctl.config.edit.fmt import STEP
from netctl.config.load.build import ALL, GROUP
from netctl.config.load.loader import parse
from netctl.config.load.semantic import INVITED_GROUP
from netctl.config.resolve.guests import Guest
from netctl.model.errors import ConfigError, LocalError

_PLAIN = re.compile(r"[a-z][a-z0-9-]*\Z")
_WORDS = frozenset({"null", "true", "false"})


@dataclass(frozen=True, slots=True)
class _Insert:
    """Text to insert at an index (in characters from the start)."""

    at: int
    text: str


class _Text:
    """A document's text and its nodes."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.root: Any = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        self._starts: list[int] = [0]
        for found in re.finditer("\n", text):
            self._starts.append(found.end())

    def index(self, mark: Any) -> int:
        """The index in the text of a libyaml mark."""
        start: int = self._starts[mark.line]
        return start + int(mark.column)

    def value(self, node: Any, key: str) -> Any:
        """The value node of a key; None when the mapping has none."""
        if isinstance(node, yaml.MappingNode):
            return next((value for name, value in node.value if name.value == key), None)
        return None

    def last(self, node: Any) -> int:
        """The index where a node's content ends, before the comments and empty lines after it."""
        if getattr(node, "flow_style", True) or not node.value or isinstance(node, yaml.ScalarNode):
            end = self.index(node.end_mark)
            return len(self.text[:end].rstrip()) if isinstance(node, yaml.ScalarNode) and node.style else end
        inner = node.value[-1]
        if isinstance(inner, tuple):
            key, value = inner
            return max(self.last(key), self.last(value))
        return self.last(inner)

    def line_after(self, index: int) -> tuple[int, str]:
        """The index of the next line, and the line break to insert first if the text ends without one."""
        end = self.text.find("\n", index)
        return (len(self.text), "\n") if end < 0 else (end + 1, "")

    def add(self, node: Any, indent: int, entries: Sequence[str]) -> _Insert:
        """The insertion of entries behind the last one of a map or a list."""
        if node.flow_style:
            if node.value:
                inner = node.value[-1]
                return _Insert(
                    self.last(inner[1] if isinstance(inner, tuple) else inner), ", " + ", ".join(entries)
                )
            return _Insert(self.index(node.end_mark) - 1, ", ".join(entries))
        is_list = isinstance(node, yaml.SequenceNode)
        at, needed = self.line_after(self.last(node))
        lines = (" " * indent + ("- " if is_list else "") + entry for entry in entries)
        return _Insert(at, needed + "".join(line + "\n" for line in lines))


def _name(name: str) -> str:
    return name if _PLAIN.match(name) and name not in _WORDS else json.dumps(name)


def _member(guest: Guest) -> tuple[str, dict[str, Any]]:
    body = {"wireguard": str(guest.key), "identity": str(guest.identity), "groups": [INVITED_GROUP]}
    shown = f'{{wireguard: "{guest.key}", identity: "{guest.identity}", groups: [{INVITED_GROUP}]}}'
    return f"{_name(guest.name)}: {shown}", body


def add_guests(text: str, guests: Iterable[Guest], file: str = "networks.yaml") -> str:
    """The document's text with these members added to `members` and to each of their networks.

    Raises ConfigError for a text that cannot be read, LocalError where the layout permits no insertion.
    """
    guests = list(guests)
    if not guests:
        return text
    wanted: Any = copy.deepcopy(parse(text, file).tree)
    if not isinstance(wanted, dict):
        raise LocalError(f"{file} is no document")
    place = _Text(text)
    inserts = []
    members = place.value(place.root, "members")
    entries = [_member(guest) for guest in guests]
    if isinstance(members, yaml.MappingNode):
        indent = members.value[0][0].start_mark.column if members.value else STEP
        inserts.append(place.add(members, indent, [shown for shown, _ in entries]))
    else:
        inserts.append(_new_members(place, members, [shown for shown, _ in entries]))
    wanted["members"] = {
        **(wanted.get("members") or {}),
        **{g.name: body for g, (_, body) in zip(guests, entries, strict=True)},
    }
    for name, network in wanted["networks"].items():
        selectors = network["members"]
        if ALL in selectors or GROUP + INVITED_GROUP in selectors:
            continue
        new = [guest.name for guest in guests if name in guest.networks and guest.name not in selectors]
        if new:
            node = place.value(place.value(place.value(place.root, "networks"), name), "members")
            inserts.append(place.add(node, node.start_mark.column, [_name(guest) for guest in new]))
            network["members"] = [*selectors, *new]
    result = text
    for insert in sorted(inserts, key=lambda insert: insert.at, reverse=True):
        result = result[: insert.at] + insert.text + result[insert.at :]
    try:
        good = parse(result, file).tree == wanted
    except ConfigError:
        good = False
    if not good:
        lines = "\n".join(f"  {shown}" for shown, _ in entries)
        raise LocalError(
            f"{file} is laid out in a way that no line can be added to; add these by hand:\n{lines}"
        )
    return result


def _new_members(place: _Text, members: Any, entries: Sequence[str]) -> _Insert:
    """The insertion of the first members where `members:` is missing or empty."""
    if place.root.flow_style:
        return place.add(place.root, 0, [f"members: {{{', '.join(entries)}}}"])
    lines = "".join(" " * STEP + entry + "\n" for entry in entries)
    if members is not None:
        at, needed = place.line_after(place.index(members.start_mark))
        return _Insert(at, needed + lines)
    at, needed = place.line_after(place.last(place.root))
    return _Insert(at, f"{needed}members:\n{lines}")
