"""Runs the `nft` program, for one transaction or one listing."""

from __future__ import annotations

import subprocess

from netctl.model.errors import EngineError

TIMEOUT_S = 30.0
"""Seconds for one run; loading the largest table seen took five seconds."""
TOO_LONG = f"nft did not finish within {TIMEOUT_S:.0f} s"


def nft(arguments: list[str], text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run `nft` with `text` as its input. Blocking. Raises EngineError where `nft` is missing or does not end."""
    try:
        return subprocess.run(
            ["nft", *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        raise EngineError("`nft` is missing; install the package nftables") from None
    except subprocess.TimeoutExpired:
        raise EngineError(TOO_LONG) from None


def first_line(result: subprocess.CompletedProcess[str]) -> str:
    """The first line of nft's error."""
    return (result.stderr.strip().splitlines() or ["no reason given"])[0]


def load(arguments: list[str], transaction: str, what: str) -> None:
    """Load a transaction whole or not at all. Raises EngineError with nft's first line about `what`."""
    result = nft([*arguments, "-f", "-"], transaction)
    if result.returncode != 0:
        raise EngineError(f"nftables refused {what}: {first_line(result)}")
