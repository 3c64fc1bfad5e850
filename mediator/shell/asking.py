"""Asking the mediator that runs on this machine, over its operator's socket."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from mediator.shell.admin import SOCKET_NAME
from netctl.model.errors import LocalError

TIMEOUT_S = 10.0
"""Whatever it is asked, it answers in milliseconds; it may be busy with a thousand logins."""


def ask_mediator(state: Path, request: dict[str, Any]) -> Any:
    """The result of one request. Raises LocalError."""
    path = state / SOCKET_NAME
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        try:
            connection.connect(str(path))
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as answers:
                answer = json.loads(answers.readline() or b"{}")
        except (FileNotFoundError, ConnectionRefusedError):
            raise LocalError(f"no mediator runs here: nothing answers at {path}") from None
        except PermissionError:
            raise LocalError(f"{path} is for its owner alone: run this with sudo") from None
        except (OSError, ValueError) as error:
            raise LocalError(f"the mediator at {path} does not answer: {error}") from error
    if "result" not in answer:
        reason = answer.get("error", {}).get("message", "it hung up")
        raise LocalError(f"the mediator cannot say: {reason}")
    return answer["result"]
