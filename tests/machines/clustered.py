"""What `test_image.py` runs in namespaces of its own: examples/cluster/compose.yaml, by podman-compose or by Docker's.

The steps are those in the file's own comment, with the image netctl-mediator as it is built. PostgreSQL and NATS of
Debian stand in for the two images of a registry. Docker's Compose starts all at once and is asked who is healthy, with
a third argument: the root file system of its engine. podman-compose is not: it starts one kind after the other, and
`healthy` is asked by running each service's own check.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[2]))

from netctl.config import load_document
from netctl.wire.stun import BINDING_SUCCESS, binding_request, decode
from tests.machines.composing import Compose, docker_compose, network, podman_compose
from tests.machines.engine import engine, load
from tests.machines.images import DEADLINE_S, wait_for

EXAMPLE = Path(__file__).parents[2] / "examples/cluster"
MEDIATORS, RELAYS = ("m1", "m2", "m3"), ("r1", "r2")
PYTHON = "/usr/lib/netctl/bin/python3"
RESOLVE = "import socket, sys; print(socket.gethostbyname(sys.argv[1]))"


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
        self.compose, self.file = compose, file

    def up(self) -> None:
        """Start all; afterwards all are healthy."""
        self.compose("up", "-d", "db", "nats")
        self.wait("db", "nats")
        self.compose("up", "-d", "--no-deps", *MEDIATORS, *RELAYS)
        self.wait(*MEDIATORS, *RELAYS)

    def start_again(self, name: str) -> None:
        """Start one that was killed."""
        self.compose("start", name)

    def healthy(self, name: str) -> bool:
        """What the service's own check says."""
        kind, *argv = self.file["services"][name]["healthcheck"]["test"]
        assert kind == "CMD"
        return self.compose.attempt("exec", "-T", name, *argv).returncode == 0

    def wait(self, *names: str) -> None:
        for name in names:
            wait_for(f"{name} is healthy", lambda: self.healthy(name))  # noqa: B023

    def heard(self, name: str) -> list[tuple[str, bool]]:
        """The other mediators, and whether it hears them."""
        said = self.compose.inside(name, "netctl-mediator", "status", "-o", "json")
        found = json.loads(said)["mediators"] if said.startswith("{") else []
        return sorted((one["name"].partition(".")[0], one["alive"]) for one in found)


class DockerCluster(Cluster):
    """The services as Docker's engine runs them: in the order of `depends_on`, and checked by the engine."""

    def up(self) -> None:
        self.compose("up", "-d", "--wait")

    def start_again(self, name: str) -> None:
        self.compose("up", "-d")

    def healthy(self, name: str) -> bool:
        said = self.compose("ps", "--all", "--format", "json", name)
        return bool(json.loads(said)["Health"] == "healthy") if said.strip() else False


def by_podman(store: Path, place: Path) -> None:
    """podman-compose through the steps."""
    prepare(place)
    cluster = Cluster(podman_compose(place, store, "netctl-cluster", "compose.yaml"), services(place))
    with torn_down(cluster):
        steps(cluster, place)


def by_docker(store: Path, place: Path, root: Path) -> None:
    """Docker's Compose through the steps, and what else README.md says of them."""
    prepare(place)
    work = place.with_name("engine")
    work.mkdir()
    file = services(place)
    images = {one["image"] for one in file["services"].values()}
    with engine(root, work, place) as docker:
        load(docker, store, place, *sorted(images))
        cluster = DockerCluster(docker_compose(place, docker, "compose.yaml"), file)
        with torn_down(cluster):
            cluster.compose("config", "--quiet")
            steps(cluster, place)
            apart(cluster)
            renewed(cluster, place)


def prepare(place: Path) -> None:
    """The example's files, and its passwords and certificates."""
    network(place)
    shutil.copytree(EXAMPLE, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("secrets"))
    subprocess.run([place / "make-secrets"], check=True, timeout=60)


def services(place: Path) -> dict[str, Any]:
    """The file, as YAML says it."""
    file: dict[str, Any] = yaml.safe_load((place / "compose.yaml").read_text())
    return file


@contextlib.contextmanager
def torn_down(cluster: Cluster) -> Iterator[None]:
    """Nothing is left; what the services said is printed if something fails."""
    try:
        yield
    except BaseException:
        for name in cluster.file["services"]:
            done = cluster.compose.attempt("logs", "--tail", "30", name)
            print(f"== {name}\n{done.stdout}{done.stderr}")
        raise
    finally:
        cluster.compose("down", "-v", check=False)


def steps(cluster: Cluster, place: Path) -> None:
    """The steps of the file; then a mediator is killed, and PostgreSQL stops and comes back."""
    compose = cluster.compose
    document = place / "netctl/networks.yaml"
    document.write_text(identities(compose, document.read_text()))
    cluster.up()
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
    cluster.start_again("m1")
    cluster.wait("m1")
    wait_for("it is heard again", lambda: ("m1", True) in cluster.heard("m2"))
    compose("stop", "db")
    wait_for("no mediator is ready", lambda: not any(map(cluster.healthy, MEDIATORS)))
    assert all(map(cluster.healthy, RELAYS)), "relays need no store"
    compose("start", "db")
    cluster.wait("db", *MEDIATORS)


def answers(address: str, port: int) -> bool:
    """Whether a relay answers there by STUN."""
    transaction = os.urandom(12)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(DEADLINE_S)
        asking.connect((address, port))
        asking.send(binding_request(transaction))
        answer = decode(asking.recv(2048))
    return (answer.kind, answer.transaction) == (BINDING_SUCCESS, transaction)


def apart(cluster: Cluster) -> None:
    """The machine reaches mediators and relays at their addresses; PostgreSQL and NATS only mediators reach."""
    for name in (*MEDIATORS, *RELAYS):
        address = cluster.file["services"][name]["networks"]["outside"]["ipv4_address"]
        assert answers(address, 3478), name
        if name in MEDIATORS:
            socket.create_connection((address, 8443), timeout=DEADLINE_S).close()
    look = (PYTHON, "-c", RESOLVE)
    for name in ("db", "nats"):
        assert cluster.compose.inside("m1", *look, name).strip(), name
        assert cluster.compose.attempt("exec", "-T", "r1", *look, name).returncode != 0, name


def renewed(cluster: Cluster, place: Path) -> None:
    """New certificates, as README.md renews them, are in use after `restart`."""
    names = ("db.crt", "nats.crt", "store.crt")
    before = {name: (place / "secrets" / name).read_bytes() for name in names}
    for name in names:
        (place / "secrets" / name).unlink()
    subprocess.run([place / "make-secrets"], check=True, timeout=60)
    cluster.compose("restart")
    cluster.wait("db", "nats", *MEDIATORS, *RELAYS)
    for service, name in (("db", "db.crt"), ("nats", "nats.crt"), ("m1", "store.crt")):
        said = cluster.compose("exec", "-T", service, "cat", f"/run/secrets/{name}").encode()
        assert said == (place / "secrets" / name).read_bytes() != before[name]


def main(store: Path, place: Path, root: Path | None = None) -> None:
    if root is None:
        by_podman(store, place)
    else:
        by_docker(store, place, root)
    print("ok: the cluster")


if __name__ == "__main__":
    os.environ["CONTAINERS_CONF"] = str(Path(sys.argv[2]) / "containers.conf")
    main(*map(Path, sys.argv[1:]))
