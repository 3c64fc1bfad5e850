"""Asking the agent over its control socket."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

from netctl.agent.places import Places
from netctl.model.errors import ConfigError, Finding, LocalError, Mark

TIMEOUT_S = 120.0
"""An apply of a large document on a small machine; status answers in milliseconds."""


class NoAgentError(LocalError):
    """No agent runs on this host."""


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


def ask(places: Places, request: dict[str, Any], progress: Callable[[str], None] | None = None) -> Any:
    """Send one request; the result. Raises NoAgentError, ConfigError or LocalError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        try:
            connection.connect(str(places.socket))
        except (FileNotFoundError, ConnectionRefusedError):
            raise NoAgentError("no agent runs on this host: start it with `netctl up`") from None
        except PermissionError:
            raise LocalError(f"{places.socket} is for its owner alone: run this with sudo") from None
        except OSError as error:
            raise LocalError(f"cannot reach the agent at {places.socket}: {error.strerror}") from error
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
            raise LocalError(f"the agent has not answered for {TIMEOUT_S:.0f} s; look at its log") from None
        except (OSError, ValueError) as error:
            raise LocalError(f"the agent broke off: {error}; look at its log") from error
    raise LocalError("the agent broke off without an answer; look at its log")
