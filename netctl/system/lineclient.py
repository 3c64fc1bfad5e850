"""The client of the local sockets of agent and mediator, which speak JSON lines (`netctl.wire.jsonline`)."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from netctl.model.errors import LocalError
from netctl.wire.jsonline import Line, Request, encode, error_of, parse_line

Reply = TypeVar("Reply")


class NobodyListensError(LocalError):
    """Nothing listens at a socket."""


@dataclass(frozen=True)
class Answer(Generic[Reply]):
    """A result. `raw`: all fields of the answer, as JSON; `reply`: the fields that this version knows, typed."""

    raw: msgspec.Raw
    reply: Reply

    @cached_property
    def plain(self) -> Any:
        """All fields, as plain values."""
        return msgspec.json.decode(self.raw)


@dataclass(frozen=True, slots=True)
class Server:
    """The server at a socket. `name`: its name in messages; `missing`: the message when no server listens."""

    path: Path
    name: str
    missing: str


def answer_of(request: Request[Reply], plain: Any) -> Answer[Reply]:
    """The answer with `plain` as its result. Raises ValueError."""
    return Answer(msgspec.Raw(msgspec.json.encode(plain)), msgspec.convert(plain, request.reply_type()))


def ask(
    server: Server,
    request: Request[Reply],
    progress: Callable[[str], None] | None = None,
    *,
    timeout_s: float,
) -> Answer[Reply]:
    """Send one request, and read until its result. `timeout_s` bounds the wait for each line.

    Raises NobodyListensError, ConfigError where the document is at fault, and LocalError for all else.
    """
    who = server.name
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(server.path))
        except (FileNotFoundError, ConnectionRefusedError):
            raise NobodyListensError(server.missing) from None
        except PermissionError:
            raise LocalError(f"{server.path} is for its owner alone: run this with sudo") from None
        except OSError as error:
            raise LocalError(f"cannot reach the {who} at {server.path}: {error.strerror or error}") from error
        try:
            connection.sendall(encode(request))
            with connection.makefile("rb") as lines:
                for raw in lines:
                    found = _result(parse_line(raw), request, progress)
                    if found is not None:
                        return found
        except TimeoutError:
            raise LocalError(f"the {who} has not answered for {timeout_s:.0f} s; look at its log") from None
        except (OSError, ValueError, RecursionError) as error:
            raise LocalError(f"the {who} broke off: {error}; look at its log") from error
    raise LocalError(f"the {who} broke off without an answer; look at its log")


def _result(
    line: Line, request: Request[Reply], progress: Callable[[str], None] | None
) -> Answer[Reply] | None:
    if isinstance(line.error, msgspec.UnsetType):
        if isinstance(line.result, msgspec.Raw):
            return Answer(line.result, msgspec.json.decode(line.result, type=request.reply_type()))
        if isinstance(line.progress, str) and progress is not None:
            progress(line.progress)
        return None
    raise error_of(line.error)
