"""Compose for the scripts that `test_image.py` runs in namespaces of their own: podman-compose, and Docker's."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.machines.engine import Engine
from tests.machines.images import DEADLINE_S, sh

WRAPPER = """#!/usr/bin/python3
# This machine's containers run without cgroups of their own, without limits and without systemd's timers: whoever wants
# to know whether one is healthy runs its check.
import os, sys
verb, *rest = sys.argv[1:]
if verb in ("run", "create"):
    kept = []
    while rest:
        word = rest.pop(0)
        if not word.startswith("--health"):
            kept.append(word)
        elif "=" not in word:
            rest.pop(0)
    rest = ["--ulimit", "host", "--cgroups=disabled", "--no-healthcheck", *kept]
podman = ["podman", "--root", "{store}", "--runroot", "{run}", "--cgroup-manager", "cgroupfs"]
os.execvp("podman", [*podman, verb, *rest])
"""


def network(place: Path, *addresses: str) -> None:
    """What a container engine needs in new namespaces, and a link with the machine's own addresses."""
    sh("mount", "-t", "tmpfs", "tmpfs", "/run")
    sh("mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup")
    sh("ip", "link", "add", "server", "type", "bridge")
    for address in addresses:
        sh("ip", "addr", "add", f"{address}/32", "dev", "server")
    for link in ("lo", "server"):
        sh("ip", "link", "set", link, "up")
    (place / "containers.conf").write_text(
        "[containers]\ndefault_ulimits = []\n"
        f'[network]\nnetwork_backend = "netavark"\nnetwork_config_dir = "{place}/networks"\n'
    )


class Compose:
    """Compose with files of a directory. `command`: what stands before its own words."""

    def __init__(self, place: Path, command: Sequence[str]) -> None:
        self._place = place
        self._command = tuple(command)

    def attempt(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command, and what it printed."""
        return subprocess.run(
            [*self._command, *words], cwd=self._place, capture_output=True, text=True, timeout=DEADLINE_S
        )

    def __call__(self, *words: str, check: bool = True) -> str:
        done = self.attempt(*words)
        if check and done.returncode:
            raise SystemExit(f"compose {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def inside(self, service: str, *words: str) -> str:
        """What a command in a service prints, which may fail."""
        return self("exec", "-T", service, *words, check=False)


def podman_compose(place: Path, store: Path, project: str, *files: str) -> Compose:
    """podman-compose with these files of a directory."""
    podman = place / "podman"
    podman.write_text(WRAPPER.format(store=store, run=store.with_name("run")))
    podman.chmod(0o755)
    options = [word for file in files for word in ("-f", file)]
    return Compose(place, ("podman-compose", "-p", project, "--podman-path", str(podman), *options))


def docker_compose(place: Path, engine: Engine, *files: str) -> Compose:
    """Docker's Compose with these files of a directory, which the engine sees."""
    options = [word for file in files for word in ("-f", str(place / file))]
    return Compose(place, (*engine.docker, "compose", "--progress", "plain", *options))
