"""What an agent and the relay that it runs as a child say to each other: lines of JSON over the child's two pipes."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from netctl.model.errors import RemoteError

MAX_UNHELD = 32
"""Spans of ports in one line; a host with more joins the nearest."""
MAX_LINE = 16 * 1024
"""Bytes of a line: sixteen secrets and a few numbers are 1.5 KB."""
Port = Annotated[int, Meta(ge=1, le=65535)]
Secret = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
"""By which the grants of one mediator are checked (`netctl.wire.relaysecret`), in hex."""
Secrets = Annotated[list[Secret], Meta(min_length=1, max_length=16)]


class RelayOrder(Struct, frozen=True):
    """The agent's lines: where to listen, and whose grants are good. In a later line the ports are as in the first."""

    stun: Annotated[list[Port], Meta(min_length=1, max_length=4)]
    relay_ports: tuple[Port, Port]
    secrets: Secrets


class RelayReport(Struct, frozen=True, omit_defaults=True):
    """The relay's lines, every few seconds."""

    bindings: int = 0
    """Members that are bound, each to one peer."""
    forwarded_bytes: int = 0
    clock_behind_s: float = 0.0
    """By how much the clock here is behind a mediator's, at least, as grants have shown it."""
    unheld: Annotated[list[tuple[Port, Port]], Meta(max_length=MAX_UNHELD)] = []
    """Spans (first, last) of the relay ports that other programs hold."""
    error: str | None = None
    """Why the relay could not begin. It ends after this line."""


Line = TypeVar("Line", RelayOrder, RelayReport)


def read_line(text: bytes, kind: type[Line]) -> Line:
    """One line as a value. Raises RemoteError."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise RemoteError(f"not a line of a member's relay: {error}", "relay.line") from error


def write_line(line: RelayOrder | RelayReport) -> bytes:
    """A value as one line."""
    return msgspec.json.encode(line) + b"\n"
