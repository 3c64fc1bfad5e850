"""What `test_image.py` runs in namespaces of its own: a mediator and two members as containers, joined by a bridge.

Started by `unshare`; whatever happens, the PID namespace takes every process along, and the mount namespace the rest.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

DEADLINE_S = 240.0
"""A container starts in seconds; a busy machine takes longer, and a hang must end."""
NAMES = {"mediator": "198.51.100.1", "nas": "198.51.100.2", "laptop": "198.51.100.3"}
CONTAINERS_CONF = "[containers]\ndefault_ulimits = []\n"


def sh(*words: str, check: bool = True) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE_S)
    if check and done.returncode != 0:
        raise SystemExit(f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Podman:
    """Podman with a store of its own."""

    def __init__(self, store: Path, run: Path) -> None:
        self._base = ("podman", "--root", str(store), "--runroot", str(run), "--cgroup-manager", "cgroupfs")

    def words(self, *words: str) -> tuple[str, ...]:
        return (*self._base, *words)

    def __call__(self, *words: str, check: bool = True) -> str:
        return sh(*self.words(*words), check=check)

    def start(self, name: str, image: str, *options: str, command: tuple[str, ...] = ()) -> None:
        place = ("--network", f"ns:/run/netns/{name}", "--ulimit", "host", "--cgroups=disabled")
        self("run", "-d", "--name", name, "--no-healthcheck", *place, *options, image, *command)

    def inside(self, name: str, *words: str, check: bool = True) -> str:
        return self("exec", name, *words, check=check)


def network() -> None:
    """A bridge, and a namespace on it for each container."""
    sh("mount", "-t", "tmpfs", "tmpfs", "/run")
    sh("mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup")
    sh("ip", "link", "add", "wire", "type", "bridge")
    sh("ip", "link", "set", "wire", "up")
    for number, (name, address) in enumerate(NAMES.items()):
        sh("ip", "netns", "add", name)
        sh("ip", "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
        sh("ip", "link", "set", f"v{number}", "master", "wire", "up")
        for link in ("lo", "eth0"):
            sh("ip", "-n", name, "link", "set", link, "up")
        sh("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")


def wait_for(what: str, true: object) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {DEADLINE_S:.0f} s: {what}")
        time.sleep(0.5)


def main(store: Path, work: Path) -> None:
    network()
    (work / "containers.conf").write_text(CONTAINERS_CONF)
    podman = Podman(store, store.with_name("run"))
    shared = ("-v", f"{work}/etc:/etc/netctl", "-v", f"{work}/mediator:/var/lib/netctl-mediator")
    (work / "etc").mkdir()
    (work / "mediator").mkdir()
    made = podman(
        *("run", "--rm", "--network", "none", "--ulimit", "host", "--cgroups=disabled", *shared),
        *("netctl-mediator", "setup", NAMES["mediator"]),
    )
    assert made == "", made  # no systemd in there: it writes the document and says what to start
    podman.start("mediator", "netctl-mediator", *shared)
    wait_for(
        "the mediator is healthy", lambda: podman.inside("mediator", "netctl-mediator", "status", check=False)
    )
    invite = podman.inside("mediator", "netctl", "invite", "home", "--uses", "2")
    (work / "invite").write_text(invite)
    for name in ("nas", "laptop"):
        podman.start(
            name,
            "netctl-member",
            *("--init", "--cap-add", "NET_ADMIN", "--device", "/dev/net/tun"),
            # A container may not write to /proc/sys: what netctl sets there is given from outside.
            *("--sysctl", "net.ipv4.conf.default.rp_filter=2"),
            *("-e", "NETCTL_INVITE_FILE=/run/secrets/invite", "-e", f"NETCTL_NAME={name}"),
            *("-v", f"{work}/invite:/run/secrets/invite:ro"),
        )

    def status(name: str) -> dict[str, object]:
        said = podman.inside(name, "netctl", "status", "-o", "json", check=False)
        return json.loads(said) if said.startswith("{") else {}

    def direct() -> bool:
        peers = status("nas").get("peers")
        return bool(peers) and peers[0]["path"] in ("lan", "direct")  # type: ignore[index]

    wait_for("the members are connected", direct)
    # The image has no ping; Python's own sockets carry a line over the overlay, by name.
    listen = (
        "import socket; s = socket.create_server(('', 7000)); c, a = s.accept(); c.sendall(a[0].encode())"
    )
    podman("exec", "-d", "nas", "/usr/lib/netctl/bin/python3", "-c", listen)
    call = "import socket; print(socket.create_connection(('nas.home.netctl', 7000), 20).recv(99).decode())"
    said = ""

    def called() -> bool:
        nonlocal said
        said = podman.inside("laptop", "/usr/lib/netctl/bin/python3", "-c", call, check=False).strip()
        return bool(said)

    wait_for("a connection by name", called)
    own = status("laptop")["networks"]["home"]["addresses"]  # type: ignore[index]
    assert said in own, (said, own)
    print(f"ok: {said} over the overlay")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except (SystemExit, subprocess.TimeoutExpired):
        told = Podman(Path(sys.argv[1]), Path(sys.argv[1]).with_name("run"))
        for each in NAMES:
            for words in (("logs", "--tail", "40", each), ("exec", each, "netctl", "status")):
                said = subprocess.run(
                    told.words(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                )
                print(f"== {' '.join(words)}\n{said.stdout}")
        raise
