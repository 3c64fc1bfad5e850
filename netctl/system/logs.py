"""The log of a long-running program: the standard library's `logging`, one line a record, on the standard error.

Text is for people; where the standard error is the journal, each line begins with its priority, ``<4>``, which systemd
strips (sd-daemon(3)). JSON is for programs: ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``. Control
characters in foreign text are escaped in both.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Mapping

from netctl.model.printable import printable, printable_json

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
FORMATS = ("text", "json")
DEFAULT_LEVEL = "info"
PRIORITIES = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}
"""Priorities of syslog(3), by level."""
SILENT = logging.CRITICAL + 1
"""A level above all records."""
_ROOTS = ("netctl", "mediator")
_JOIN = "; "
"""Joins the lines of a message: a record is one line."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--log-level` and `--log-format`."""
    parser.add_argument(
        "--log-level",
        choices=list(LEVELS),
        default=DEFAULT_LEVEL,
        help=f"the least that the log says (default: {DEFAULT_LEVEL})",
    )
    parser.add_argument(
        "--log-format", choices=FORMATS, default=FORMATS[0], help="how the log says it (default: text)"
    )


def options_of(arguments: argparse.Namespace) -> list[str]:
    """The same options as arguments for another program of ours."""
    return ["--log-level", arguments.log_level, "--log-format", arguments.log_format]


def set_up(arguments: argparse.Namespace) -> None:
    """Start the log with the level and format of these options."""
    start(LEVELS[arguments.log_level], arguments.log_format)


def start(
    level: int, form: str = FORMATS[0], *, prefix: str = "", also: logging.Handler | None = None
) -> None:
    """Write the log to the standard error. `prefix`: before each line of text; `also`: another handler."""
    handler = _Handler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter(prefix, journal=to_journal()))
    for name in _ROOTS:
        logger = logging.getLogger(name)
        logger.handlers = [handler] if also is None else [handler, also]
        logger.setLevel(level)


def to_journal(environment: Mapping[str, str] = os.environ, descriptor: int = 2) -> bool:
    """Whether a descriptor is a stream to the journal (``JOURNAL_STREAM``, systemd.exec(5))."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def one_line(record: logging.LogRecord) -> str:
    """A record's message, fit for a terminal, in one line."""
    lines = (line.strip() for line in record.getMessage().split("\n"))
    return printable(_JOIN.join(filter(None, lines)))


class TextFormatter(logging.Formatter):
    """Lines for people, and for the journal."""

    def __init__(self, prefix: str = "", *, journal: bool = False) -> None:
        super().__init__()
        self._prefix = prefix
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        priority = f"<{PRIORITIES.get(record.levelno, 6)}>" if self._journal else ""
        return f"{priority}{self._prefix}{one_line(record)}"


class JsonFormatter(logging.Formatter):
    """Lines for programs."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        row = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": one_line(record),
        }
        return printable_json(json.dumps(row, ensure_ascii=False))


class _Handler(logging.Handler):
    """Writes to the present `sys.stderr`. Errors are ignored: a closed standard error must not end the program."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
