"""A Docker engine for the scripts that `test_image.py` runs in namespaces of their own: Debian 13's, with its Compose.

dockerd runs over a root file system made by mmdebstrap, in a mount and a cgroup namespace of its own. Its bridges and
its rules are in the script's network namespace: none of it touches this machine's links, tables and containers.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.machines.images import DEADLINE_S, wait_for
from tests.machines.rootfs import OVER, PIVOT

PACKAGES = ("docker.io", "docker-cli", "docker-compose", "iptables")
CGROUPS = Path("/sys/fs/cgroup")
SOCKET = "/run/netctl-engine.sock"
"""No engine of a machine listens here, so no command can reach a machine's by mistake."""

# What an engine stores is no overlay itself: its own overlays cannot lie upon one. A name that is no container's is
# asked for in the container itself, where nobody answers.
_RUN = f"""
set -e
{OVER}
mkdir -p "$root/var/lib/docker" "$root$3" "$2/data"
mount --bind "$2/data" "$root/var/lib/docker"
mount --bind "$3" "$root$3"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
{PIVOT}
export HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec dockerd --host unix://{SOCKET} --storage-driver overlay2 --dns 127.0.0.1
"""


class Engine:
    """An engine that runs. The directory that it was started with has the same name inside."""

    def __init__(self, process: int) -> None:
        enter = ("nsenter", f"--target={process}", "--mount", "--")
        login = (
            "env",
            "-i",
            "HOME=/root",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            f"DOCKER_HOST=unix://{SOCKET}",
        )
        self.docker = (*enter, *login, "docker")

    def attempt(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command of docker, and what it printed."""
        return subprocess.run((*self.docker, *words), capture_output=True, text=True, timeout=DEADLINE_S)

    def __call__(self, *words: str) -> str:
        done = self.attempt(*words)
        if done.returncode:
            raise SystemExit(f"docker {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout


@contextlib.contextmanager
def engine(root: Path, work: Path, shared: Path) -> Iterator[Engine]:
    """An engine over `root`, until the end. `work`: an empty directory for what it writes; `shared` is seen inside."""
    with cgroup() as group:
        apart = ["unshare", "--mount", "--cgroup", "--propagation", "private"]
        join = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group), *apart]
        command = [*join, "sh", "-c", _RUN, "engine", str(root), str(work), str(shared)]
        log = work.with_name("dockerd.log")
        with log.open("w") as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
            one = Engine(process.pid)

            def answers() -> bool:
                if process.poll() is not None:
                    raise SystemExit(f"dockerd ended: {log.read_text()[-3000:]}")
                return one.attempt("version").returncode == 0

            try:
                wait_for("dockerd answers", answers)
                yield one
            finally:
                process.terminate()  # it ends its containers first


@contextlib.contextmanager
def cgroup() -> Iterator[Path]:
    """A control group for all that an engine starts, in the cgroup2 of the script's own mount namespace."""
    place = CGROUPS / f"netctl-engine-{os.stat('/proc/self/ns/pid').st_ino}"
    place.mkdir()
    try:
        yield place
    finally:
        for inner in sorted(place.rglob("*/"), reverse=True):
            inner.rmdir()
        place.rmdir()


def load(one: Engine, store: Path, shared: Path, *names: str) -> None:
    """Give an engine images of a store of podman, in which a name without a registry has `localhost/` before it."""
    images = [name if "/" in name else f"localhost/{name}" for name in names]
    archive = shared / "images.tar"
    podman = ("podman", "--root", str(store), "--runroot", str(store.with_name("run")))
    save = (*podman, "save", "--quiet", "--multi-image-archive", "--output", str(archive), *images)
    subprocess.run(save, check=True, timeout=DEADLINE_S)
    one("load", "--quiet", "--input", str(archive))
    archive.unlink()
    for name, image in zip(names, images, strict=True):
        if name != image:
            one("tag", image, name)
