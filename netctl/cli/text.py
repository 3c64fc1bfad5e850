"""`netctl fmt`, `explain` and `schema`: the document as a text, and what may be in it."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path

from netctl.agent.places import Places, read_document
from netctl.cli import output
from netctl.model.errors import ConfigError, LocalError
from netctl.system.files import overwrite, write_atomic


def fmt(arguments: argparse.Namespace, places: Places) -> int:
    """Lay a document out; with --check say only whether it is. Exit 1 when --check finds that it is not."""
    from netctl.cli.document import show_findings
    from netctl.config.fmt import format_text

    path = arguments.file or places.config
    text = read_document(path)
    try:
        laid_out = format_text(text, str(path))
    except ConfigError as error:
        show_findings(error.findings, text)
        return 1
    if laid_out == text:
        output.note(f"{path} is laid out as it should be")
        return 0
    if arguments.check:
        output.error(f"{path} is not laid out as it should be: run `netctl fmt {path}`")
        return 1
    _write_back(path.resolve(), laid_out)
    output.note(f"laid out {path}")
    return 0


def _write_back(path: Path, text: str) -> None:
    """Replace a file's text; owner and mode stay. Raises LocalError."""
    try:
        before = path.stat()
        try:
            owner = (before.st_uid, before.st_gid)
            write_atomic(path, text, before.st_mode & 0o7777, owner)
        except PermissionError:  # not ours to give away, or a directory that is not ours: then in place
            overwrite(path, text)
    except OSError as error:
        raise LocalError(f"cannot write {path}: {error.strerror}") from error


def explain(arguments: argparse.Namespace, places: Places) -> int:
    """Say what a key of the document means."""
    from netctl.config.explain import explain as words
    from netctl.config.explain import keys

    text = words(arguments.key)
    if text is None:
        near = difflib.get_close_matches(arguments.key, keys(), n=1)
        hint = f"did you mean `{near[0]}`?" if near else "`netctl explain` shows the first of them"
        raise LocalError(f"there is no key '{arguments.key}' in a document: {hint}")
    output.line(text)
    return 0


def schema(arguments: argparse.Namespace, places: Places) -> int:
    """Print the JSON Schema of networks.yaml."""
    from netctl.config.draft7 import to_draft7
    from netctl.config.schema import load_schema

    schema = load_schema()
    output.json(to_draft7(schema) if arguments.draft == "7" else schema)
    return 0
