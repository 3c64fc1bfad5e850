"""What `test_image.py` runs in namespaces of its own: examples/cluster/compose.yaml, by podman-compose.

The steps are those in the file's own comment, with the image netctl-mediator as it is built. PostgreSQL and NATS of
Debian stand in for the two images of a registry; `healthy` is asked by running each service's own check.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[2]))

from netctl.config import load_document
from tests.machines.composing import Compose, network
from tests.machines.images import wait_for

EXAMPLE = Path(__file__).parents[2] / "examples/cluster"
MEDIATORS, RELAYS = ("m1", "m2", "m3"), ("r1", "r2")
PYTHON = "/usr/lib/netctl/bin/python3"


def identities(compose: Compose, text: str) -> str:
    """The document with the identity that each mediator and relay has made."""
    for name in MEDIATORS + RELAYS:
        host = f"{name}.example.net"
        relay = ["--relay", "--state", "/var/lib/netctl-relay"] if name in RELAYS else []
        said = compose("run", "--rm", "--no-deps", name, "init", *relay, "--host", host)
        identity = re.search(r"ed25519:[^\"\s]+", said)
        assert identity is not None, said
        head, at, after = text.partition(f"{host}:8443")
        text = head + at + re.sub(r"ed25519:[^\"]+", identity.group(), after, count=1)
    assert load_document(text, "networks.yaml").warnings == ()
    return text


class Cluster:
    """The services of the file."""

    def __init__(self, compose: Compose, file: dict[str, Any]) -> None:
        self._compose, self._file = compose, file

    def healthy(self, name: str) -> bool:
        """What the service's own check says."""
        kind, *argv = self._file["services"][name]["healthcheck"]["test"]
        assert kind == "CMD"
        return self._compose.attempt("exec", "-T", name, *argv).returncode == 0

    def wait(self, *names: str) -> None:
        for name in names:
            wait_for(f"{name} is healthy", lambda: self.healthy(name))  # noqa: B023

    def heard(self, name: str) -> list[tuple[str, bool]]:
        """The other mediators, and whether it hears them."""
        said = self._compose.inside(name, "netctl-mediator", "status", "-o", "json")
        found = json.loads(said)["mediators"] if said.startswith("{") else []
        return sorted((one["name"].partition(".")[0], one["alive"]) for one in found)


def main(store: Path, place: Path) -> None:
    """The steps; then a mediator is killed, and PostgreSQL stops and comes back."""
    network(place)
    shutil.copytree(EXAMPLE, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("secrets"))
    subprocess.run([place / "make-secrets"], check=True, timeout=60)
    compose = Compose(place, store, "netctl-cluster", "compose.yaml")
    cluster = Cluster(compose, yaml.safe_load((place / "compose.yaml").read_text()))
    document = place / "netctl/networks.yaml"
    document.write_text(identities(compose, document.read_text()))
    try:
        compose("up", "-d", "db", "nats")
        cluster.wait("db", "nats")
        compose("up", "-d", "--no-deps", *MEDIATORS, *RELAYS)
        cluster.wait(*MEDIATORS, *RELAYS)
        for name in MEDIATORS:
            wanted = [(other, True) for other in MEDIATORS if other != name]
            wait_for(f"{name} hears the others", lambda: cluster.heard(name) == wanted)  # noqa: B023
        invite = compose("exec", "-T", "m1", "netctl", "invite", "staff")
        assert "netctl1" in invite, invite
        for name in (*MEDIATORS, *RELAYS):
            own = compose("exec", "-T", name, "cat", "/proc/self/status")
            assert re.search(r"^Uid:\s+8443\s", own, re.MULTILINE), own
            assert re.search(r"^CapBnd:\s+0+$", own, re.MULTILINE), own
            assert compose.attempt("exec", "-T", name, "touch", "/etc/written").returncode != 0
        compose("kill", "m1")
        wait_for("the others miss it", lambda: ("m1", False) in cluster.heard("m2"))
        compose("start", "m1")
        cluster.wait("m1")
        wait_for("it is heard again", lambda: ("m1", True) in cluster.heard("m2"))
        compose("stop", "db")
        wait_for("no mediator is ready", lambda: not any(map(cluster.healthy, MEDIATORS)))
        assert all(map(cluster.healthy, RELAYS)), "relays need no store"
        compose("start", "db")
        cluster.wait("db", *MEDIATORS)
    except BaseException:
        for name in cluster._file["services"]:
            done = compose.attempt("logs", "--tail", "30", name)
            print(f"== {name}\n{done.stdout}{done.stderr}")
        raise
    finally:
        compose("down", "-v", check=False)
    print("ok: the cluster")


if __name__ == "__main__":
    os.environ["CONTAINERS_CONF"] = str(Path(sys.argv[2]) / "containers.conf")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
