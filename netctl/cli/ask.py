"""Asking the agent over its control socket."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from netctl.agent.places import Places
from netctl.model.errors import ConfigError, Finding, LocalError, Mark

TIMEOUT_S = 120.0
"""An apply of a large document on a small machine; status answers in milliseconds."""


class NoAgentError(LocalError):
    """No agent runs on this host."""


class NobodyListensError(LocalError):
    """Nothing listens on a socket."""


def _findings(rows: list[dict[str, Any]]) -> tuple[Finding, ...]:
    return tuple(
        Finding(
            row["code"],
            row["path"],
            row["message"],
            Mark(row["file"], row["line"], row["column"]) if row["file"] else None,
            row["hint"],
            row["severity"],
        )
        for row in rows
    )


def ask(
    places: Places,
    request: dict[str, Any],
    progress: Callable[[str], None] | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
) -> Any:
    """Send the agent one request; the result. Raises NoAgentError, ConfigError or LocalError."""
    try:
        missing = "no agent runs on this host: start it with `netctl up`"
        return ask_socket(places.socket, request, "agent", missing, progress, timeout_s=timeout_s)
    except NobodyListensError as error:
        raise NoAgentError(str(error)) from None


def ask_socket(
    path: Path,
    request: dict[str, Any],
    who: str,
    missing: str,
    progress: Callable[[str], None] | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
) -> Any:
    """Send one request to a socket of JSON lines; the result. Raises NobodyListensError (`missing`) and as `ask`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            raise NobodyListensError(missing) from None
        except PermissionError:
            raise LocalError(f"{path} is for its owner alone: run this with sudo") from None
        except OSError as error:
            raise LocalError(f"cannot reach the {who} at {path}: {error.strerror or error}") from error
        try:
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as answers:
                for raw in answers:
                    answer = json.loads(raw)
                    if "progress" in answer and progress is not None:
                        progress(answer["progress"])
                    elif "error" in answer:
                        problem = answer["error"]
                        if problem["kind"] == "config":
                            raise ConfigError(_findings(problem["findings"]))
                        raise LocalError(problem["message"])
                    elif "result" in answer:
                        return answer["result"]
        except TimeoutError:
            raise LocalError(f"the {who} has not answered for {timeout_s:.0f} s; look at its log") from None
        except (OSError, ValueError) as error:
            raise LocalError(f"the {who} broke off: {error}; look at its log") from error
    raise LocalError(f"the {who} broke off without an answer; look at its log")
