"""`netctl fmt`: format a document; its content and comments stay."""

from __future__ import annotations

import argparse
from pathlib import Path

from netctl.agent.storage.locations import Locations, read_document
from netctl.cli import output
from netctl.cli.findings import show_findings
from netctl.cli.options import add_files
from netctl.model.errors import ConfigError, LocalError
from netctl.system.files import overwrite, write_atomic


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_files(parser)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when it is not laid out")


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Format each document; with --check, exit 1 if a document is not formatted."""
    return max(_lay_out(path, check=arguments.check) for path in arguments.files or [locations.config])


def _lay_out(path: Path, *, check: bool) -> int:
    from netctl.config.edit.fmt import format_text

    text = read_document(path)
    try:
        laid_out = format_text(text, str(path))
    except ConfigError as error:
        show_findings(error.findings, text)
        return 1
    if laid_out == text:
        output.note(f"{path} is laid out as it should be")
        return 0
    if check:
        output.error(f"{path} is not laid out as it should be: run `netctl fmt {path}`")
        return 1
    _write_back(path.resolve(), laid_out)
    output.note(f"laid out {path}")
    return 0


def _write_back(path: Path, text: str) -> None:
    """Replace a file's text and keep its owner and mode. Raises LocalError."""
    try:
        before = path.stat()
        try:
            owner = (before.st_uid, before.st_gid)
            write_atomic(path, text, before.st_mode & 0o7777, owner)
        except PermissionError:  # chown or the directory is not allowed: overwrite in place
            overwrite(path, text)
    except OSError as error:
        raise LocalError(f"cannot write {path}: {error.strerror}") from error
