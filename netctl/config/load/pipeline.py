"""Loads a Document from text in stages: parse, schema, build, semantics, tests."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from netctl.config.load.acl import check_tests
from netctl.config.load.build import build, digest
from netctl.config.load.loader import Origin, Path, Tree, format_path, parse
from netctl.config.load.report import Report
from netctl.config.load.schema import check_schema, fits
from netctl.config.load.semantic import check_semantics
from netctl.model.document import Document
from netctl.model.errors import ConfigError, Finding, Mark

PUBLIC_KEY_FIELDS = frozenset({"wireguard", "previousKeys"})
PEM = "-----BEGIN"
SECRET_WORDS = ("private", "secret", "preshared", "password")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid document, warnings about it, and the places of its parts in the text."""

    document: Document
    warnings: tuple[Finding, ...]
    source: Origin

    def mark(self, path: Path) -> Mark:
        """The place of a path in the text."""
        return self.source.mark(path)

    @property
    def marks(self) -> Mapping[str, Mark]:
        """The place of every path of the text (``members.nas.endpoints[0]``). Computed anew at each call."""
        return {format_path(path): mark for path, mark in self.source.all_marks()}


def load_document(text: str, file: str = "networks.yaml") -> Loaded:
    """Load a valid Document. Raises ConfigError with every finding, in the order of the text.

    A wrong part does not hide errors elsewhere: it is cut out, and the rest is checked.
    """
    source = parse(text, file)
    report = Report(source)
    for path in _secrets(source.tree, ()):
        message = "this looks like a private key; no secret belongs into this file"
        hint = "keys stay on their host: `netctl keys` prints the public halves"
        report.error("NC303", path, message, hint)
    report.close_stage()
    check_schema(source.tree, report)
    report.close_stage()
    tree = cut(source.tree, report.roots) if report.roots else source.tree
    if isinstance(tree, dict) and fits(tree):
        document = build(tree, digest(text), report)
        report.close_stage()
        check_semantics(document, tree, report)
        if not report.errors:
            check_tests(document, report)
            if not report.errors:
                return Loaded(document, report.warnings, source)
    raise ConfigError(report.sorted())


def cut(tree: Tree, broken: Collection[Path]) -> Tree:
    """The tree without its broken parts; None when the rest cannot be a document.

    A list with a broken item is removed as a whole, since removing one item would shift the others. A map is removed
    when a key is broken that it requires.
    """
    if () in broken or not isinstance(tree, dict):
        return None
    doomed = {_cut_point(path) for path in broken}
    if () in doomed:
        return None
    return _without(tree, (), doomed)


ROOTS = frozenset({("members",), ("networks",)})
"""Parts without which nothing is left to check."""


def _cut_point(path: Path) -> Path:
    names = next((depth for depth, part in enumerate(path) if isinstance(part, int)), len(path))
    point = path[:names]
    if point in ROOTS:
        return ()
    # A network without its members cannot be checked.
    return point[:2] if point[2:] == ("members",) and point[0] == "networks" else point


def _without(tree: dict[str, Tree], path: Path, doomed: Collection[Path]) -> dict[str, Tree]:
    kept: dict[str, Tree] = {}
    for key, value in tree.items():
        here = (*path, key)
        if here in doomed:
            continue
        deeper = isinstance(value, dict) and any(point[: len(here)] == here for point in doomed)
        kept[key] = _without(value, here, doomed) if deeper and isinstance(value, dict) else value
    return kept


def _looks_like_key(value: str) -> bool:
    value = value.strip()
    if len(value) != 44 or not value.endswith("="):
        return False
    try:
        return len(base64.b64decode(value, validate=True)) == 32
    except ValueError:  # binascii.Error is one, and text beyond ASCII is another
        return False


def _secrets(tree: Tree, path: Path) -> Iterator[Path]:
    """Places that contain a secret or are named like one. Values that look like keys belong only to public keys."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            named = isinstance(value, str) and any(word in key.lower() for word in SECRET_WORDS)
            if named and path[-1:] != ("addresses",):  # the keys of `addresses` are members' names
                yield (*path, key)
            else:
                yield from _secrets(value, (*path, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from _secrets(value, (*path, index))
    elif isinstance(tree, str):
        misplaced = PUBLIC_KEY_FIELDS.isdisjoint(path) and _looks_like_key(tree)
        if misplaced or PEM in tree:
            yield path
