"""A checked document in a form that loads quickly: its tree as JSON, bound to the text by a digest.

Only documents that pass the checks are compiled, and the same code as always builds the Document: a compiled document
that somebody has changed can contain wrong values, but no code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from netctl.config.load.build import build, digest
from netctl.config.load.loader import Path, Source, Tree, parse
from netctl.config.load.pipeline import Loaded
from netctl.config.load.report import Report
from netctl.model.errors import Finding, Mark

FORMAT = 1
"""The version of the compiled form; a document with another version is compiled anew."""


@dataclass(slots=True)
class LateSource:
    """A `Source` that parses the text only when its tree or the place of a path is asked for.

    Of 5,000 members the tree and the places take some 10 MB, which an agent at rest does not need.
    """

    file: str
    text: str
    findings: tuple[Finding, ...] = ()
    broken: tuple[Path, ...] = ()
    _parsed: Source | None = field(default=None, repr=False)

    def _source(self) -> Source:
        if self._parsed is None:
            self._parsed = parse(self.text, self.file)
        return self._parsed

    @property
    def tree(self) -> Tree:
        """The tree of the text."""
        return self._source().tree

    def mark(self, path: Path) -> Mark:
        """The place of `path`, or of its nearest parent that is in the text."""
        return self._source().mark(path)

    def all_marks(self) -> Iterator[tuple[Path, Mark]]:
        """Every path and its place."""
        return self._source().all_marks()


class _Compiled(msgspec.Struct):
    format: int
    code: str
    text: str
    tree: dict[str, Any]
    warnings: list[tuple[str, str, str, tuple[int, int] | None, str, str]]


def fingerprint(text: str) -> str:
    """The digest of the text that a compiled document is bound to."""
    return hashlib.sha256(text.encode()).hexdigest()


def compile_document(loaded: Loaded, code: str) -> bytes:
    """The compiled form of a valid document. `code`: identifies the version of the checks that it has passed."""
    tree = loaded.source.tree
    assert isinstance(tree, dict)
    warnings = [
        (w.code, w.path, w.message, (w.mark.line, w.mark.column) if w.mark else None, w.hint, w.severity)
        for w in loaded.warnings
    ]
    return msgspec.json.encode(_Compiled(FORMAT, code, fingerprint(loaded.source.text), tree, warnings))


def load_compiled(data: bytes, code: str, text: str, file: str) -> Loaded | None:
    """The document, when `data` is the compiled form of this text with this `code`; else None."""
    try:
        compiled = msgspec.json.decode(data, type=_Compiled)
        if (compiled.format, compiled.code, compiled.text) != (FORMAT, code, fingerprint(text)):
            return None
        source = LateSource(file, text)
        report = Report(source)
        document = build(compiled.tree, digest(text), report)
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError):
        return None  # damaged: the caller reads the text instead
    if report.errors:
        return None
    warnings = tuple(
        Finding(code, path, message, Mark(file, *mark) if mark else None, hint, severity)
        for code, path, message, mark, hint, severity in compiled.warnings
    )
    return Loaded(document, warnings, source)
