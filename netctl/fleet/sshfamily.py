"""Git over ssh by whichever address family answers first (Happy Eyeballs, RFC 8305).

OpenSSH tries the addresses of a name one after the other, and waits for each that is silent: an IPv6 default route that
leads nowhere cost every fetch 20 s. The race is asked here, and ssh is told the family that won; names, keys, and
everything else that the user's configuration says stay ssh's own affair.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Mapping
from urllib.parse import urlsplit

from netctl.fleet.git import SSH
from netctl.model.addresses import SocketAddress
from netctl.system.dial import race, resolve

RACE_S = 5.0
"""Seconds. If no address answers within them, ssh runs as configured and says what is wrong."""
CONFIGURATION_S = 10.0
"""Seconds for `ssh -G`: the user's configuration may run a command to match a host (`Match exec`)."""
GIT_SSH_COMMAND = "GIT_SSH_COMMAND"


def destination(url: str) -> tuple[str, int | None] | None:
    """Host (with its user, as ssh takes it) and port of a URL that Git reaches by ssh; None for all others.

    ``ssh://[USER@]HOST[:PORT]/PATH`` or ``[USER@]HOST:PATH`` (git-fetch(1), Git URLs).
    """
    if "://" in url:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            return None
        if parts.scheme != "ssh" or not host or parts.netloc.startswith("-"):
            return None
        login, at, _ = parts.netloc.rpartition("@")
        return f"{login.partition(':')[0]}{at}{host}", port
    place, colon, after = url.partition(":")
    if (
        not colon or not place or "/" in place or "[" in place
    ):  # a path, or an address in brackets: one family
        return None
    if place.startswith("-") or after.startswith(
        ":"
    ):  # no name of a host; NAME::ADDRESS is a helper of Git's
        return None
    return place, None


def configured(host: str, port: int | None) -> Mapping[str, str]:
    """The configuration of ssh for a host: keywords of ssh_config(5) in lower case. Empty if ssh cannot tell it."""
    wanted = ["-p", str(port)] if port is not None else []
    try:
        done = subprocess.run(
            ["ssh", "-G", *wanted, "--", host],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=CONFIGURATION_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    if done.returncode:
        return {}
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


def _goes_elsewhere(said: Mapping[str, str]) -> bool:
    """Whether ssh would not connect to the host itself, or the user has chosen how."""
    through = (said.get("proxyjump", "none"), said.get("proxycommand", "none"))
    return through != ("none", "none") or said.get("addressfamily", "any") != "any"


def winner(host: str, port: int | None) -> int | None:
    """The family (4 or 6) that answers first, of a host that has both. None: ssh chooses as it would alone."""
    said = configured(host, port)
    if _goes_elsewhere(said) or "hostname" not in said:
        return None
    try:
        return asyncio.run(_race(said["hostname"], int(said.get("port", "22"))))
    except (OSError, ValueError):  # TimeoutError is one
        return None


async def _race(host: str, port: int) -> int | None:
    async with asyncio.timeout(RACE_S):
        addresses = await resolve(host, port)
        if len({one.is_ipv6 for one in addresses}) < 2:
            return None
        opened = await race(addresses)
    try:
        return 6 if SocketAddress.of(*opened.getpeername()[:2]).is_ipv6 else 4
    finally:
        opened.close()


class SshFamily:
    """The family for one repository, found once and again after a failure: a server may count silent connections."""

    def __init__(self, url: str) -> None:
        self._destination = destination(url)
        self._found: int | None = None

    def environment(self) -> Mapping[str, str]:
        """Variables to add to Git's environment. Blocks for seconds: not for a thread that runs an event loop."""
        if self._destination is None or GIT_SSH_COMMAND in os.environ:
            return {}
        if self._found is None:
            self._found = winner(*self._destination)
        return {GIT_SSH_COMMAND: f"{SSH} -{self._found}"} if self._found is not None else {}

    def failed(self) -> None:
        """The fetch failed: look for the family again the next time."""
        self._found = None
