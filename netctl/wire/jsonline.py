"""Requests and answers at the local sockets of agent and mediator: one JSON object a line.

A request is an object with the operation's name as ``op`` and the operation's fields. The answer is any number of
``{"progress": text}`` and one ``{"result": …}`` or ``{"error": {"kind", "message", …}}``. Each operation is one struct
(`agentrequests`, `operatorrequests`), a subclass of ``Request[Reply]`` that names the type of its reply.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Generic, Literal, TypeVar, get_args

import msgspec
from msgspec import UNSET, Struct, UnsetType

from netctl.model.errors import ConfigError, Finding, LocalError, Mark, NetctlError

Reply = TypeVar("Reply")
MAX_QUOTED = 100
"""Characters of a decoder's complaint, or of an unknown operation, that an answer quotes."""
_FIELD = re.compile(r"(?:missing required field `([a-z_]+)`|at `\$\.([a-z_]+))")


class Request(Struct, Generic[Reply], frozen=True, tag_field="op"):
    """The base of all requests: one subclass for each operation, with the operation's name as the tag."""

    @classmethod
    def operation(cls) -> str:
        """The name of the operation."""
        return str(cls.__struct_config__.tag)

    @classmethod
    def reply_type(cls) -> Any:
        """The type of a result."""
        return get_args(cls.__orig_bases__[0])[0]  # type: ignore[attr-defined]  # typing sets it on every subclass


class FindingRow(Struct, frozen=True):
    """A finding about a document; `file` None: the finding belongs to no line."""

    code: str
    path: str
    message: str
    hint: str = ""
    severity: str = "error"
    file: str | None = None
    line: int | None = None
    column: int | None = None


class Failure(Struct, frozen=True):
    """Why there is no result. `config`: the document is at fault, and `findings` say where."""

    kind: Literal["config", "failed"]
    message: str
    findings: list[FindingRow] | UnsetType = UNSET


class Line(Struct, frozen=True):
    """A line of an answer: exactly one of the three fields is set."""

    progress: str | UnsetType = UNSET
    error: Failure | UnsetType = UNSET
    result: msgspec.Raw | UnsetType = UNSET


class Operations:
    """The operations of one socket."""

    def __init__(self, who: str, *requests: type[Request[Any]]) -> None:
        self._who = who
        self._decoders: dict[str, msgspec.json.Decoder[Request[Any]]] = {
            one.operation(): msgspec.json.Decoder(one) for one in requests
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self._decoders)

    def parse(self, line: bytes) -> Request[Any]:
        """The request of a line. Raises LocalError, in words for the sender, for a line that is no request."""
        try:
            op = _HEAD.decode(line).op
        except (ValueError, RecursionError) as error:
            raise LocalError(f"not a request: {type(error).__name__}: {str(error)[:MAX_QUOTED]}") from error
        decoder = self._decoders.get(op)
        if decoder is None:
            raise LocalError(
                f"this {self._who} does not know '{op[:MAX_QUOTED]}': is it of the same version?"
            )
        try:
            return decoder.decode(line)
        except (ValueError, RecursionError) as error:
            raise LocalError(_in_words(error)) from error


class _Head(Struct):
    op: str


_HEAD = msgspec.json.Decoder(_Head)


def _in_words(error: Exception) -> str:
    text = str(error)
    found = _FIELD.search(text)
    if found is None:
        return f"not a request: {type(error).__name__}: {text[:MAX_QUOTED]}"
    missing, wrong = found.groups()
    if missing is not None:
        return f"the request does not say '{missing}'"
    return f"the request does not say '{wrong}' as it should: {text[:MAX_QUOTED]}"


def encode(message: Struct) -> bytes:
    """A request, or a line of an answer."""
    return msgspec.json.encode(message) + b"\n"


def result_line(result: Any) -> bytes:
    """The answer of an operation that succeeded."""
    return msgspec.json.encode({"result": result}) + b"\n"


def failure_line(error: Exception, who: str) -> bytes:
    """The answer of an operation that failed with any exception. `who`: agent or mediator."""
    if isinstance(error, ConfigError):
        findings = [_row(one) for one in error.findings]
        return encode(Line(error=Failure("config", _unicode(str(error)), findings)))
    if isinstance(error, NetctlError):
        return encode(Line(error=Failure("failed", _unicode(str(error)))))
    message = f"the {who} itself failed ({type(error).__name__}: {error})"
    return encode(Line(error=Failure("failed", _unicode(message))))


def progress_line(text: str) -> bytes:
    """A line of progress for the person who waits."""
    return encode(Line(progress=_unicode(text)))


def _unicode(text: str) -> str:
    """The text with lone surrogates escaped: a file name in an error may contain them, and JSON cannot."""
    return text.encode(errors="backslashreplace").decode()


def error_of(failure: Failure) -> LocalError | ConfigError:
    """The exception that a failure stands for."""
    if failure.kind == "config" and failure.findings is not UNSET:
        return ConfigError(tuple(_finding(row) for row in failure.findings))
    return LocalError(failure.message)


def parse_line(raw: bytes) -> Line:
    """Decode a line of an answer. Raises ValueError."""
    return _LINE.decode(raw)


_LINE = msgspec.json.Decoder(Line)


def _row(found: Finding) -> FindingRow:
    mark = found.mark
    return FindingRow(
        found.code,
        found.path,
        found.message,
        found.hint,
        found.severity,
        mark.file if mark else None,
        mark.line if mark else None,
        mark.column if mark else None,
    )


def _finding(row: FindingRow) -> Finding:
    mark = None
    if row.file is not None and row.line is not None and row.column is not None:
        mark = Mark(row.file, row.line, row.column)
    return Finding(row.code, row.path, row.message, mark, row.hint, row.severity)
