"""Finds and starts userspace WireGuard engines. Never restarts a running one, since tunnels live in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from netctl.engine.wireguard.uapiclient import SOCKET_DIR
from netctl.model.errors import EngineError
from netctl.system.ourselves import environment

PREFERENCE = ("netctl-wg", "wireguard-go")
"""The engines for `auto` where the kernel has no WireGuard, best first."""
START_TIMEOUT_S = 20.0
"""Seconds for the start of an engine: usually one or two; a loaded small machine gets ten times as long."""


def find(kind: str) -> str:
    """The path of a userspace WireGuard by its name. Raises EngineError."""
    beside = Path(sys.executable).with_name(kind)
    found = str(beside) if beside.exists() else shutil.which(kind)
    if found is None:
        raise EngineError(f"the engine {kind} is not installed on this host")
    return found


def available() -> str | None:
    """The best userspace engine on this host, or None."""
    for kind in PREFERENCE:
        try:
            find(kind)
        except EngineError:
            continue
        return kind
    return None


def running_kind(interface: str) -> str:
    """The engine that serves an interface: only netctl-wg has a hand-over socket."""
    handover = SOCKET_DIR / f"{interface}.handover"
    return "netctl-wg" if handover.exists() else "wireguard-go"


def start(kind: str, interface: str) -> None:
    """Start an engine in its own session, so that it outlives us. Returns once the interface exists."""
    program = find(kind)
    SOCKET_DIR.mkdir(parents=True, exist_ok=True)
    (SOCKET_DIR / f"{interface}.sock").unlink(missing_ok=True)  # left by an engine that was killed
    variables = environment(LOG_LEVEL="error")
    variables.pop("WG_PROCESS_FOREGROUND", None)
    try:
        # A file, not a pipe: the daemon keeps its output open, so reading a pipe would never end.
        with tempfile.TemporaryFile("w+") as output:
            result = subprocess.run(
                [program, interface],
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=START_TIMEOUT_S,
                start_new_session=True,
                check=False,
            )
            output.seek(0)
            said = output.read()
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{kind} did not start within {START_TIMEOUT_S:.0f} s") from error
    except OSError as error:
        raise EngineError(f"{kind} cannot be started: {error.strerror}") from error
    if result.returncode != 0:
        lines = [line.strip() for line in said.splitlines() if "ERROR" in line or "rror" in line]
        reason = lines[-1] if lines else f"exit code {result.returncode}"
        raise EngineError(f"{kind} did not start: {reason}")
