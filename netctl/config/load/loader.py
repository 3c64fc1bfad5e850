"""Parses a document's text to a tree: strict YAML 1.2 core, with a mark for every key and item.

Works on the event stream of libyaml and never on its composer: depth, size, aliases, tags and duplicate
keys are checked before anything is built, so a hostile document costs no more than its own length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import yaml

from netctl.model.errors import ConfigError, Finding, Mark

MAX_BYTES = 16 * 1024 * 1024
"""Bytes of a document at most; a document of 20,000 members has about 4 MB."""
MAX_DEPTH = 64
"""Nested levels; the schema nests eight levels deep, and deeper input only attacks the parser."""
MAX_FINDINGS = 200
"""Findings of one document: nobody reads more, and a file with more is wrong as a whole."""

SHOWN_LEN = 80
"""Characters of a key or value in a message; a longer one would hide the message."""

Scalar = str | int | float | bool | None
Tree = dict[str, "Tree"] | list["Tree"] | Scalar
Path = tuple[str | int, ...]

# YAML 1.2 core schema, less octal and other surprises: `0777`, `22:33`, `NO`, `on`, dates stay strings.
_PLAIN = re.compile(r"[^\s.\[\]\"]+\Z")
_CONTROL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # YAML 1.2 §5.1
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?\Z")
_WORDS: dict[str, Scalar] = {
    "": None,
    "~": None,
    "null": None,
    "Null": None,
    "NULL": None,
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}
MAX_NUMBER_LEN = 18  # characters: all numbers of a document fit in 64 bits; a longer one stays text


@dataclass(slots=True)
class MarkTree:
    """Where a node starts (1-based), and the same for its children."""

    line: int
    column: int
    children: dict[str | int, MarkTree] = field(default_factory=dict)


class Origin(Protocol):
    """The text of a document, as a tree, and the places of its parts."""

    @property
    def file(self) -> str:
        """The name of the file, for messages."""

    @property
    def text(self) -> str:
        """The text as it was written."""

    @property
    def tree(self) -> Tree:
        """The document as maps, lists and values."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Errors of the text as YAML, where the rest could still be read."""

    @property
    def broken(self) -> tuple[Path, ...]:
        """Paths whose values are unreliable because of such an error."""

    def mark(self, path: Path) -> Mark:
        """The place of `path`, or of its nearest parent that is in the text."""

    def all_marks(self) -> Iterator[tuple[Path, Mark]]:
        """Every path and its place."""


@dataclass(frozen=True, slots=True)
class Source:
    """A parsed text: the plain tree, and the place of each of its parts."""

    file: str
    text: str
    tree: Tree
    marks: MarkTree
    findings: tuple[Finding, ...] = ()
    """Errors of the text as YAML, where the rest could still be read (a key that is there twice)."""
    broken: tuple[Path, ...] = ()
    """Paths whose values are unreliable because of such an error."""

    def mark(self, path: Path) -> Mark:
        """The place of `path`, or of its nearest parent that is in the text."""
        node = self.marks
        for part in path:
            child = node.children.get(part)
            if child is None:
                break
            node = child
        return Mark(self.file, node.line, node.column)

    def all_marks(self) -> Iterator[tuple[Path, Mark]]:
        """Every path and its place."""
        for path, node in _walk((), self.marks):
            yield path, Mark(self.file, node.line, node.column)


def _walk(path: Path, node: MarkTree) -> Iterator[tuple[Path, MarkTree]]:
    yield path, node
    for part, child in node.children.items():
        yield from _walk((*path, part), child)


def clean(text: str) -> str:
    """Text from the document for a terminal: control characters are escaped, a long text is cut to SHOWN_LEN."""
    safe = text if text.isprintable() else json.dumps(text)[1:-1].replace("\x7f", r"\u007f")
    return safe if len(safe) <= SHOWN_LEN else safe[: SHOWN_LEN - 1] + "…"


def format_path(path: Path) -> str:
    """``members.nas.endpoints[0]``; the root is ``(document)``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            word = clean(part)
            word = word if _PLAIN.match(word) else f'"{word}"'
            text += f".{word}" if text else word
    return (text if len(text) <= 2 * SHOWN_LEN else text[: 2 * SHOWN_LEN - 1] + "…") or "(document)"


class _Stop(Exception):
    """The text cannot be read any further."""


class _Builder:
    """Builds tree and marks from events, iteratively, so that depth does not use Python's stack."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.findings: list[Finding] = []
        self.broken: list[Path] = []

    def fail(self, code: str, path: Path, message: str, mark: Any, hint: str = "") -> None:
        place = Mark(self.file, mark.line + 1, mark.column + 1)
        self.findings.append(Finding(code, format_path(path), message, place, hint))
        if len(self.findings) >= MAX_FINDINGS:
            raise _Stop

    def build(self, events: Iterator[yaml.Event]) -> tuple[Tree, MarkTree]:
        root: list[Tree] = []
        root_marks = MarkTree(1, 1)
        stack: list[tuple[dict[str, Tree] | list[Tree], MarkTree, Path]] = [(root, root_marks, ())]
        key: str | None = None
        keys: list[str | None] = []
        documents = 0
        for event in events:
            container, marks, path = stack[-1]
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self.fail(
                        "NC003", (), "only one document a file; remove the '---' line", event.start_mark
                    )
                    raise _Stop
                continue
            if isinstance(event, yaml.AliasEvent):
                self.fail("NC004", path, "aliases (*name) are not allowed; write it out", event.start_mark)
                raise _Stop
            if isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                stack.pop()
                key = keys.pop()
                if isinstance(stack[-1][0], dict):
                    key = None
                continue
            if not isinstance(event, (yaml.ScalarEvent, yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                continue
            start: Any = event.start_mark
            if event.anchor:
                self.fail("NC004", path, "anchors (&name) are not allowed; write it out", start)
            if event.tag not in (None, "!"):
                self.fail(
                    "NC005", path, f"tags ({clean(event.tag)}) are not allowed; write the plain value", start
                )
            if isinstance(container, dict) and key is None:
                key = self._key(event, container, path)
                if key not in marks.children:
                    marks.children[key] = MarkTree(start.line + 1, start.column + 1)
                continue
            value: Tree
            if isinstance(event, yaml.ScalarEvent):
                value = self._scalar(event)
            else:
                value = {} if isinstance(event, yaml.MappingStartEvent) else []
            if isinstance(container, dict):
                assert key is not None
                container[key] = value
                here, part = marks.children[key], key
            else:
                part = len(container)  # type: ignore[assignment]
                container.append(value)
                here = MarkTree(start.line + 1, start.column + 1)
                marks.children[part] = here
            if isinstance(value, (dict, list)):
                if len(stack) > MAX_DEPTH:
                    self.fail("NC006", path, f"nested deeper than {MAX_DEPTH} levels", start)
                    raise _Stop
                stack.append((value, here, (*path, part) if len(stack) > 1 else ()))
                keys.append(None)
            key = None
        tree: Tree = root[0] if root else None
        return tree, root_marks.children.get(0, root_marks)

    def _key(self, event: yaml.Event, container: dict[str, Tree], path: Path) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            self.fail("NC007", path, "a key must be a plain word, not a list or a map", event.start_mark)
            raise _Stop
        text: str = event.value
        if text == "<<":
            self.broken.append((*path, text))
            self.fail("NC004", path, "merge keys (<<) are not allowed; write it out", event.start_mark)
        elif text in container:
            self.fail("NC008", (*path, text), "this key stands here twice; keep one", event.start_mark)
        return text

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        text: str = event.value
        if event.style:  # quoted or block: always a string
            return text
        if text in _WORDS:
            return _WORDS[text]
        if len(text) > MAX_NUMBER_LEN:
            return text
        if _INT.match(text):
            return int(text)
        if _FLOAT.match(text):
            return float(text)
        return text


def _unreadable(error: yaml.YAMLError | UnicodeError, text: str, file: str) -> Finding:
    """libyaml's error as a finding, in one line, with the place where the parser stopped."""
    if isinstance(error, yaml.MarkedYAMLError):
        place = error.problem_mark or error.context_mark
        mark = Mark(file, place.line + 1, place.column + 1) if place else Mark(file, 1, 1)
        lines = text.splitlines()
        if mark.line > max(len(text.rstrip().splitlines()), 1):
            return _cut_off(error, text.rstrip(), file)
        line = lines[mark.line - 1] if mark.line <= len(lines) else ""
        hint = "indent with spaces, not tabs" if "\t" in line[: mark.column] else ""
        return Finding("NC001", "(document)", f"not YAML: {error.problem}", mark, hint)
    bad = _CONTROL.search(text)
    if bad is None:
        return Finding("NC001", "(document)", "not YAML: not valid Unicode text", Mark(file, 1, 1))
    before = text[: bad.start()]
    mark = Mark(file, before.count("\n") + 1, len(before) - before.rfind("\n"))
    message = f"not YAML: the character U+{ord(bad.group()):04X} is not allowed"
    return Finding("NC001", "(document)", message, mark, "save the file as plain UTF-8")


def _cut_off(error: yaml.MarkedYAMLError, text: str, file: str) -> Finding:
    """The finding for a text that ends too early, at its last character, with the start of the open construct."""
    lines = text.splitlines() or [""]
    mark = Mark(file, len(lines), len(lines[-1]) + 1)
    began = error.context_mark
    hint = (
        f"look at line {began.line + 1}, column {began.column + 1}"
        if began and began.line < len(lines)
        else ""
    )
    message = "not YAML: the text ends while a bracket, brace or quote is still open"
    return Finding("NC001", "(document)", message, mark, hint)


def parse(text: str, file: str) -> Source:
    """Parse strictly. Raises ConfigError when the text cannot be read to its end.

    Errors that do not end the reading (a duplicate key, a tag) are in the result's `findings`.
    """
    if len(text) > MAX_BYTES or len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        message = f"larger than {MAX_BYTES // 2**20} MiB; a document of 20,000 members has about 4"
        raise ConfigError((Finding("NC002", "(document)", message, Mark(file, 1, 1)),))
    builder = _Builder(file)
    try:
        tree, marks = builder.build(events_of(text.removeprefix("\ufeff")))
    except _Stop:
        raise ConfigError(tuple(builder.findings)) from None
    except (yaml.YAMLError, UnicodeError) as error:
        too_deep = _too_deep_before(error, text.removeprefix("\ufeff"), file)
        raise ConfigError(too_deep or (*builder.findings, _unreadable(error, text, file))) from None
    return Source(file, text, tree, marks, tuple(builder.findings), tuple(builder.broken))


def events_of(text: str) -> Iterator[yaml.Event]:
    """The event stream of libyaml, or of PyYAML's own parser where PyYAML was built without libyaml."""
    return iter(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def _too_deep_before(error: yaml.YAMLError | UnicodeError, text: str, file: str) -> tuple[Finding, ...]:
    """The findings of our own limit of depth, if the text exceeds it before the place where the parser stopped.

    libyaml reads up to 1,024 characters ahead of its events, and newer versions refuse deep nesting by themselves.
    The error must not depend on the version, so the text up to that place is checked by our limit.
    """
    place = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    if place is None:
        return ()
    builder = _Builder(file)
    try:
        builder.build(events_of(text[: place.index]))
    except _Stop:
        return tuple(builder.findings)
    except (yaml.YAMLError, UnicodeError):
        return ()
    return ()
