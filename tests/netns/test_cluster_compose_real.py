"""examples/cluster/compose.yaml as it stands: each service's command, as its user, with its files, in its networks.

No container engine is needed: a service is a host of the lab with the mounts, the user and the rights of the file.
The images are stood in for by programs of this machine: PostgreSQL and NATS of its packages, netctl of this checkout.
`make test-image` runs the file with the image itself, by podman-compose and by Docker's engine and Compose.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from netctl.config import load_document
from netctl.lab.namespaces import Holder, Node
from tests.mediator.postgreskit import programs
from tests.mediator.postgreskit import why_not as why_no_postgres
from tests.support.hosts import why_not
from tests.support.lablife import lab_holder
from tests.support.patience import wait_for

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/cluster"
BIN = Path(sys.executable).parent
MEDIATORS, RELAYS = ("m1", "m2", "m3"), ("r1", "r2")
INSIDE, PREFIX = "172.30.85.", 24
REASON = why_not() or why_no_postgres()
MISSING = [name for name in ("nats-server", "openssl", "setpriv") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.netns,
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="the services run as three users: needs root"),
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (scripts/setup)"),
]
FETCH = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)"
ENROL = """
import asyncio, sys
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from netctl.agent.mediators.enrolclient import enrol
from netctl.agent.storage.keyfiles import Keys
from netctl.wire.invite import parse_invite
keys = Keys(X25519PrivateKey.generate(), Ed25519PrivateKey.generate())
print(asyncio.run(enrol(keys, parse_invite(sys.argv[1]), sys.argv[2], exact=False)).name)
"""
WITHOUT_A_CERTIFICATE = """
import psycopg, sys
password = open("/run/secrets/store-password").read().strip()
try:
    psycopg.connect(host="db", dbname="netctl", user="netctl", password=password, sslmode=sys.argv[1],
                    sslrootcert="/run/secrets/ca.crt", sslcert="/nonexistent", connect_timeout=5)
except psycopg.OperationalError as error:
    print(" ".join(str(error).split()))
else:
    print("it is in")
"""


@dataclass
class Service:
    """One service of the file, on a host of its own."""

    name: str
    said: dict[str, Any]
    node: Node
    user: int
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def words(self, argv: list[str]) -> list[str]:
        """A command of this machine that does what `argv` does in the image."""
        program, *rest = argv
        if program == "/usr/lib/netctl/bin/python3":
            return [sys.executable, *rest]
        if program == "wget":
            return [sys.executable, "-c", FETCH, rest[-1]]
        if program in ("netctl", "netctl-mediator"):
            return [str(BIN / program), *rest]
        there = programs()
        assert there is not None
        return [str(there / program) if (there / program).exists() else program, *rest]

    def as_user(self, argv: list[str]) -> list[str]:
        """As the file says: its user, no capability, no new privileges."""
        assert self.said["cap_drop"] == ["ALL"]
        assert self.said["security_opt"] == ["no-new-privileges:true"]
        rights = ["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        user = [f"--reuid={self.user}", f"--regid={self.user}"]
        return self.node.command(["setpriv", *user, *rights, "env", "-i", *ENVIRONMENT, *self.words(argv)])

    def attempt(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """`docker compose exec`."""
        return subprocess.run(self.as_user(list(argv)), capture_output=True, text=True, timeout=120)

    def run(self, *argv: str) -> str:
        done = self.attempt(*argv)
        assert done.returncode == 0, f"{self.name}: {argv}: {done.stdout}{done.stderr}\n{self.tail()}"
        return done.stdout

    @property
    def entrypoint(self) -> list[str]:
        return ["netctl-mediator"] if self.name in MEDIATORS + RELAYS else []

    def start(self) -> None:
        """`docker compose start`."""
        with self.log.open("ab") as log:
            command = self.as_user([*self.entrypoint, *self.said["command"]])
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def signal(self, number: signal.Signals) -> None:
        """To the program itself, which is below nsenter; waits for its end."""
        assert self.process is not None
        below = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        os.kill(int(below[0]) if below else self.process.pid, number)
        self.process.wait(60)

    def healthy(self) -> bool:
        kind, *argv = self.said["healthcheck"]["test"]
        assert kind == "CMD"
        return self.attempt(*argv).returncode == 0

    def tail(self) -> str:
        return self.log.read_text()[-3000:] if self.log.exists() else ""


ENVIRONMENT = [
    "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/bin",
    "LC_ALL=C.UTF-8",
    "PGDATA=/var/lib/postgresql/data",
]


@dataclass
class Cluster:
    """All services. `place`: a copy of the example, where its secrets are made."""

    place: Path
    file: dict[str, Any]
    services: dict[str, Service] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Service:
        return self.services[name]

    def all_healthy(self) -> bool:
        return all(one.healthy() for one in self.services.values())

    def tails(self) -> str:
        return "\n".join(f"== {name}\n{one.tail()}" for name, one in self.services.items())


def addresses(file: dict[str, Any]) -> dict[str, dict[str, str]]:
    """For each service its address in each of its networks."""
    found: dict[str, dict[str, str]] = {}
    for number, (name, said) in enumerate(file["services"].items(), 10):
        networks = said["networks"]
        fixed = networks if isinstance(networks, dict) else {net: {} for net in networks}
        found[name] = {
            net: (options or {}).get("ipv4_address", f"{INSIDE}{number}") for net, options in fixed.items()
        }
    return found


def hosts_of(name: str, file: dict[str, Any]) -> str:
    """What the engine's resolver would tell this service."""
    lines, where = [], addresses(file)
    for other, said in file["services"].items():
        for net in where[name].keys() & where[other].keys():
            options = said["networks"][net] if isinstance(said["networks"], dict) else {}
            lines.append(f"{where[other][net]} {' '.join([other, *(options or {}).get('aliases', [])])}")
    return "127.0.0.1 localhost\n" + "\n".join(lines) + "\n"


def opened() -> list[str]:
    """Shell lines that let every user reach this checkout and its Python, whatever directory they are in."""
    wanted = {Path(sys.base_prefix), ROOT, BIN.parent}
    closed: dict[Path, list[Path]] = {}
    for path in sorted(wanted):
        shut = [one for one in reversed(path.parents) if not one.stat().st_mode & 1]
        if shut and not any(path.is_relative_to(other) for other in closed.get(shut[0], [])):
            closed.setdefault(shut[0], []).append(path)
    lines = []
    for top, paths in closed.items():
        for number, path in enumerate(paths):
            lines += [
                f"mkdir -p /run/hold/{number}",
                f"mount --rbind {shlex.quote(str(path))} /run/hold/{number}",
            ]
        lines.append(f"mount -t tmpfs -o mode=755 open {shlex.quote(str(top))}")
        for number, path in enumerate(paths):
            lines += [
                f"mkdir -p {shlex.quote(str(path))}",
                f"mount --move /run/hold/{number} {shlex.quote(str(path))}",
            ]
    return lines


def bind(source: Path, target: str, *, read_only: bool) -> list[str]:
    """Shell lines for one mount. A directory of the machine's that is in the way is only a link in here."""
    top = "/".join(target.split("/")[: 4 if target.startswith("/var/lib") else 3])
    there, made = shlex.quote(target), "mkdir -p" if source.is_dir() else "touch"
    lines = [f"if [ -L {top} ]; then rm {top}; fi", f"mkdir -p {shlex.quote(os.path.dirname(target))}"]
    lines += [f"{made} {there}", f"mount --bind {shlex.quote(str(source))} {there}"]
    return [*lines, f"mount -o remount,bind,ro {there}"] if read_only else lines


def mounts(said: dict[str, Any], cluster: Cluster, user: int) -> list[str]:
    """Shell lines that give a service its volumes, secrets and temporary files, and a root that nobody writes to."""
    lines = [*opened(), "mkdir -p /run/secrets"]
    for text in said.get("volumes", []):
        source, target, *mode = text.split(":")
        if target.startswith("/docker-entrypoint"):
            continue  # what reads it is stood in for
        path = cluster.place / source
        if not source.startswith("."):
            assert source in cluster.file["volumes"]
            path = cluster.place / "volumes" / source
            path.mkdir(parents=True, exist_ok=True)
            shutil.chown(path, user, user)  # as in the image
            path.chmod(0o700)
        assert path.exists(), text
        lines += bind(path, target, read_only=mode == ["ro"])
    for one in said.get("secrets", []):
        name, target = (
            (one, f"/run/secrets/{one}") if isinstance(one, str) else (one["source"], one["target"])
        )
        target = target if target.startswith("/") else f"/run/secrets/{target}"
        lines += bind(cluster.place / cluster.file["secrets"][name]["file"], target, read_only=True)
    for text in said.get("tmpfs", []):
        target, _, options = text.partition(":")
        if target != "/tmp":  # it has this checkout; without one of its own, the service may write to none
            # Without a mode it has that of the image's directory, which the image's maker may change.
            lines += [f"mkdir -p {target}", f"mount -t tmpfs -o {options or 'mode=755'} tmpfs {target}"]
    assert said["read_only"] is True
    return [*lines, *(f"mount -o remount,bind,ro {place}" for place in ("/", "/etc", "/var/lib", "/run"))]


def users_of(file: dict[str, Any]) -> dict[str, int]:
    return {name: int(said["user"].partition(":")[0]) for name, said in file["services"].items()}


def raise_all(holder: Holder, cluster: Cluster) -> None:
    """A host for each service, with a cable into each of its networks."""
    users = users_of(cluster.file)
    where = addresses(cluster.file)
    for net in cluster.file["networks"]:
        holder.run(["ip", "link", "add", net, "type", "bridge"])
        holder.run(["ip", "link", "set", net, "up"])
    for name, said in cluster.file["services"].items():
        node = holder.add_node(name, hosts_of(name, cluster.file))
        for number, (net, address) in enumerate(where[name].items()):
            port, link = f"{name}-{number}", f"eth{number}"
            holder.run(
                ["ip", "link", "add", port, "type", "veth", "peer", "name", link, "netns", str(node.pid)]
            )
            holder.run(["ip", "link", "set", port, "master", net, "up"])
            node.run(["ip", "address", "add", f"{address}/{PREFIX}", "dev", link])
            node.run(["ip", "link", "set", link, "up"])
        people = {"postgres": users["db"], "netctl": users["m1"]}
        rows = [f"{who}:x:{number}:{number}::/:/bin/sh" for who, number in people.items()]
        edit = "sed -i '/^postgres:/d' /etc/passwd; printf '%s\\n' " + shlex.join(rows) + " >> /etc/passwd"
        lines = ["mount --make-rprivate /", edit, *mounts(said, cluster, users[name])]
        node.run(["sh", "-ec", "\n".join(lines)])
        cluster.services[name] = Service(name, said, node, users[name], cluster.place / f"{name}.log")


def first_start_of_postgres(db: Service) -> None:
    """What docker-entrypoint.sh of the image does before it starts the command the first time."""
    assert db.said["command"][0] == "postgres"
    password = db.said["environment"]["POSTGRES_PASSWORD_FILE"]
    db.run("initdb", "--username=postgres", f"--pwfile={password}", "--no-sync")
    options = shlex.join(["-c", "listen_addresses=", *db.said["command"][1:]])
    log = "/var/lib/postgresql/data/first.log"
    db.run("pg_ctl", "--wait", f"--options={options}", f"--log={log}", "start")
    for text in db.said["volumes"]:
        source, target, *_ = text.split(":")
        if target.startswith("/docker-entrypoint-initdb.d/"):
            script = (EXAMPLE / source).read_text()
            words = ["psql", "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "--username=postgres", "--no-password"]
            done = subprocess.run(
                db.as_user([*words, "--dbname=postgres"]), input=script, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
    db.run("pg_ctl", "--wait", "--mode=fast", "stop")


def digests(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The steps in the first lines of the file."""
    place = tmp_path_factory.mktemp("compose") / "cluster"
    shutil.copytree(EXAMPLE, place, ignore=shutil.ignore_patterns("secrets"))
    made = Cluster(place, yaml.safe_load((place / "compose.yaml").read_text()))
    subprocess.run([place / "make-secrets"], check=True, timeout=60)
    before = digests(place / "secrets")
    subprocess.run([place / "make-secrets"], check=True, timeout=60)
    assert digests(place / "secrets") == before, "what exists is kept"
    with lab_holder() as holder:
        raise_all(holder, made)
        document = place / "netctl/networks.yaml"
        text = document.read_text()
        for name in MEDIATORS + RELAYS:
            host = f"{name}.example.net"
            relay = ["--relay", "--state", "/var/lib/netctl-relay"] if name in RELAYS else []
            said = made[name].run("netctl-mediator", "init", *relay, "--host", host)
            identity = re.search(r"ed25519:[^\"]+", said)
            assert identity is not None, said
            head, at, after = text.partition(f"{host}:8443")
            text = head + at + re.sub(r"ed25519:[^\"]+", identity.group(), after, count=1)
        assert load_document(text, "networks.yaml").warnings == ()
        document.write_text(text)
        first_start_of_postgres(made["db"])
        for name in ("db", "nats"):
            made[name].start()
        try:
            for name in ("db", "nats"):
                wait_for(f"{name} is healthy", made[name].healthy)
            for name in MEDIATORS + RELAYS:
                made[name].start()
            wait_for("all are healthy", made.all_healthy)
            yield made
        except AssertionError:
            print(made.tails())
            raise
        finally:
            holder.destroy()
            for service in made.services.values():
                if service.process is not None:
                    service.process.wait(60)


def status(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(service.run("netctl-mediator", "status", "-o", "json"))
    return found


def others(service: Service) -> list[tuple[str, bool]]:
    return sorted((one["name"].partition(":")[0], one["alive"]) for one in status(service)["mediators"])


def test_each_mediator_hears_the_two_others(cluster: Cluster) -> None:
    for name in MEDIATORS:
        wanted = [(f"{other}.example.net", True) for other in MEDIATORS if other != name]
        wait_for(f"{name} hears them", lambda: others(cluster[name]) == wanted)  # noqa: B023
        assert status(cluster[name])["bus_dropped"] == 0


def test_postgresql_is_reached_over_tls_with_certificate_and_password_and_by_nobody_else(
    cluster: Cluster,
) -> None:
    db = cluster["db"]

    def ask(question: str) -> str:
        words = [
            "psql",
            "--no-psqlrc",
            "--username=postgres",
            "--dbname=postgres",
            "--tuples-only",
            "--no-align",
        ]
        return db.run(*words, "-c", question).strip()

    rows = ask(
        "SELECT DISTINCT ssl, client_dn FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'netctl'"
    )
    assert rows == "t|/CN=netctl"
    assert (
        ask("SELECT rolsuper OR rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname = 'netctl'") == "f"
    )
    assert ask("SELECT has_database_privilege('netctl', 'postgres', 'connect')") == "f"
    python = "/usr/lib/netctl/bin/python3"
    assert "certificate" in cluster["m1"].run(python, "-c", WITHOUT_A_CERTIFICATE, "verify-full")
    assert "no pg_hba.conf entry" in cluster["m1"].run(python, "-c", WITHOUT_A_CERTIFICATE, "disable")
    for name in RELAYS:
        done = cluster[name].node.attempt(["ip", "route", "get", addresses(cluster.file)["db"]["inside"]])
        assert done.returncode != 0, "a relay has no way to PostgreSQL"


def test_no_service_is_root_or_can_become_it_and_no_password_is_in_sight(cluster: Cluster) -> None:
    secrets = [
        (cluster.place / "secrets" / name).read_text().strip()
        for name in ("store-password", "bus-password", "postgres-password")
    ]
    for name, service in cluster.services.items():
        said = service.node.run(["sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' ' '"])
        assert not any(secret in said for secret in secrets), name
        own = service.run("cat", "/proc/self/status")
        assert re.search(r"^Uid:\s+(\d+)\s", own, re.MULTILINE)[1] == str(service.user) != "0"  # type: ignore[index]
        for kind in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
            assert re.search(rf"^{kind}:\s+0+$", own, re.MULTILINE), (name, kind)
        assert service.attempt("touch", "/etc/written").returncode != 0
    for name in RELAYS:
        assert cluster[name].run("ls", "/run/secrets") == ""


def test_a_host_that_joins_at_one_is_a_member_at_all(cluster: Cluster) -> None:
    invite = re.search(r"^netctl1\S+", cluster["m1"].run("netctl", "invite", "staff"), re.MULTILINE)
    assert invite is not None
    said = cluster["r1"].run("/usr/lib/netctl/bin/python3", "-c", ENROL, invite.group(), "guest")
    assert said.strip() == "guest"
    for name in MEDIATORS:
        wait_for(f"{name} knows it", lambda: "guest" in cluster[name].run("netctl", "members"))  # noqa: B023
    assert "joined guest" in cluster["m3"].run("netctl-mediator", "audit")


def test_without_postgresql_mediators_are_unready_and_relays_are_not_and_nobody_restarts(
    cluster: Cluster,
) -> None:
    running = {name: one.process for name, one in cluster.services.items()}
    cluster["db"].signal(signal.SIGINT)
    wait_for("no mediator is ready", lambda: not any(cluster[name].healthy() for name in MEDIATORS))
    assert all(cluster[name].healthy() for name in (*RELAYS, "nats"))
    cluster["db"].start()
    wait_for("all are healthy", cluster.all_healthy)
    for name in (*MEDIATORS, *RELAYS, "nats"):
        process = cluster[name].process
        assert process is running[name]
        assert process is not None
        assert process.poll() is None, cluster[name].tail()


def test_a_mediator_that_is_killed_is_missed_and_welcome_again(cluster: Cluster) -> None:
    cluster["m2"].signal(signal.SIGKILL)
    wait_for("it is missed", lambda: ("m2.example.net", False) in others(cluster["m1"]))
    assert cluster["m1"].healthy()
    cluster["m2"].start()
    wait_for(
        "it is heard again",
        lambda: others(cluster["m1"]) == [("m2.example.net", True), ("m3.example.net", True)],
    )
    wait_for("all are healthy", cluster.all_healthy)
