"""examples/cluster by its playbook, on machines with a real systemd: two mediators, a relay apart, PostgreSQL and NATS.

`make test-machines` runs it. Ansible is a real one; the way to a machine is nsenter in place of ssh, which
`tests/netns/test_fleet_real.py` has.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from netctl.config import load_document
from tests.machines.machine import Machine, Segment, eventually
from tests.machines.rootfs import BOOTED, DISTRIBUTIONS, PLATFORMS, ROOT, CannotBeHad, base, why_not

pytestmark = [
    pytest.mark.machines,
    pytest.mark.skipif(bool(why_not()), reason=str(why_not())),
    pytest.mark.skipif("NETCTL_MACHINES" not in os.environ, reason="minutes: make test-machines"),
]
MEDIATORS, RELAY = {"m1": "203.0.113.11", "m2": "203.0.113.12"}, {"r1": "203.0.113.21"}
ADDRESSES = {"db": "203.0.113.31", **MEDIATORS, **RELAY}
DISTRIBUTION = DISTRIBUTIONS["debian12"]
PACKAGES = (*BOOTED, "python3-apt", "python3-packaging", "postgresql", "nats-server")
"""What Ansible's module for apt wants, and what the machine with the store runs."""
CLUSTER, WHEELS = "/mnt/cluster", "/mnt/wheels"
EXPOSURE = 2.1
"""The bound of the mediator's unit in `test_machines.py`: the addition of the cluster opens nothing."""
PLAY_S = 900.0
SSH = """#!/bin/sh
# ssh OPTIONS… HOST COMMAND, as Ansible calls it.
for word; do host=$command; command=$word; done
exec nsenter --target "$(cat {place}/leaders/"$host")" --all --root --wd -- \
  env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=/root sh -c "$command"
"""
STORE = """
install -d -m 755 /run/secrets
cd {cluster}/secrets
install -o postgres -m 600 store-password db.key db.crt /run/secrets
cd /etc/postgresql/*/main
printf '%s\n' 'local all postgres peer' 'hostssl netctl netctl samenet scram-sha-256' > pg_hba.conf
printf '%s\n' "listen_addresses = '*'" 'ssl = on' "ssl_cert_file = '/run/secrets/db.crt'" \
  "ssl_key_file = '/run/secrets/db.key'" > conf.d/cluster.conf
systemctl restart postgresql
cd /
runuser -u postgres -- psql -v ON_ERROR_STOP=1 -f {cluster}/postgres/netctl.sql
"""
BUS = """
install -d -m 755 /etc/nats
cd {cluster}/secrets
install -o nats -m 600 nats.key nats.crt nats-users.conf /run/secrets
install -m 644 {cluster}/nats/nats.conf /etc/nats/nats.conf
install -d /etc/systemd/system/nats-server.service.d
printf '%s\n' '[Service]' 'ExecStart=' 'ExecStart=/usr/sbin/nats-server --config=/etc/nats/nats.conf' \
  > /etc/systemd/system/nats-server.service.d/cluster.conf
systemctl daemon-reload
systemctl restart nats-server
"""


@dataclass
class Site:
    """The machines, and the example beside which Ansible runs."""

    machines: dict[str, Machine]
    place: Path
    wheel: Path

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    @property
    def example(self) -> Path:
        return self.place / "cluster"

    def play(self, *variables: str) -> tuple[str, dict[str, int]]:
        """The playbook; what it said, and how many tasks have changed something on each host."""
        for name in (*MEDIATORS, *RELAY):
            (self.place / "leaders" / f"{name}.example.net").write_text(str(self[name]._leader))
        settings = {
            "ANSIBLE_SSH_EXECUTABLE": str(self.place / "ssh"),
            "ANSIBLE_SSH_TRANSFER_METHOD": "piped",
            "ANSIBLE_SSH_ARGS": "",
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_ROLES_PATH": str(ROOT / "roles"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LOCAL_TEMP": str(self.place / "temporary"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        given = {
            "ansible_python_interpreter": "/usr/bin/python3",
            "netctl_store": "postgresql://netctl@db/netctl?sslrootcert=/etc/netctl/authority.crt",
            "netctl_bus": "nats://netctl@nats?tlsca=/etc/netctl/authority.crt",
            "netctl_authority_file": str(self.example / "secrets/ca.crt"),
            "netctl_wheel": str(self.wheel),
            "netctl_pip_arguments": f"--no-index --find-links {WHEELS}",
        }
        argv = ["ansible-playbook", "-i", "inventory", "-u", "root", "-e", json.dumps(given)]
        argv += [word for one in variables for word in ("-e", one)]
        done = subprocess.run(
            [*argv, "play.yml"],
            cwd=self.example,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            timeout=PLAY_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        recap = re.findall(r"^(\w+)\.example\.net +: ok=\d+ +changed=(\d+)", done.stdout, re.MULTILINE)
        return done.stdout, {name: int(count) for name, count in recap}

    def others(self, name: str) -> list[tuple[str, bool]]:
        status = json.loads(self[name].run("netctl-mediator status -o json"))
        return [(one["name"].partition(".")[0], one["alive"]) for one in status["mediators"]]

    def store(self, name: str) -> str | None:
        found: str | None = json.loads(self[name].run("netctl-mediator status -o json"))["store"]
        return found

    def each_hears_the_other(self) -> bool:
        return all(
            self[name].works("netctl-mediator status") and self.others(name) == [(other, True)]
            for name, other in (("m1", "m2"), ("m2", "m1"))
        )


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The locked packages of store and bus, and netctl: the machines reach no index."""
    place = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip"]
    command = [*pip, "download", "--quiet", "--dest", str(place), "--require-hashes", "--no-deps"]
    command += ["--only-binary", ":all:", "--implementation", "cp", "--python-version", DISTRIBUTION.python]
    command += ["--requirement", str(ROOT / "requirements/nats.txt")]
    command += [word for platform in (*PLATFORMS, "any") for word in ("--platform", platform)]
    subprocess.run(command, check=True, timeout=600)
    build = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(place)]
    subprocess.run([*build, str(ROOT)], check=True, timeout=300)
    return place


@pytest.fixture(scope="module")
def site(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    try:
        lower = base(DISTRIBUTION, PACKAGES, "cluster")
    except CannotBeHad as error:
        pytest.skip(str(error))
    place = tmp_path_factory.mktemp("cluster")
    for name in ("leaders", "temporary"):
        (place / name).mkdir()
    (place / "ssh").write_text(SSH.format(place=place))
    (place / "ssh").chmod(0o755)
    example = place / "cluster"
    shutil.copytree(ROOT / "examples/cluster", example, ignore=shutil.ignore_patterns("secrets"))
    subprocess.run([example / "make-secrets"], check=True, timeout=60)
    hosts = {
        name: "\n".join(f"{one}.example.net" for one in group)
        for name, group in (("mediators", MEDIATORS), ("relays", RELAY))
    }
    (example / "inventory").write_text("".join(f"[{name}]\n{rows}\n" for name, rows in hosts.items()))
    segment = Segment()
    bound = {CLUSTER: example, WHEELS: wheels}
    machines = {
        name: Machine(name, lower, place / name, segment, address, bound)
        for name, address in ADDRESSES.items()
    }
    names = "".join(f"{address} {name}.example.net {name}\n" for name, address in ADDRESSES.items())
    try:
        for name, machine in machines.items():
            machine.boot()
            machine.run(f"cat >> /etc/hosts; echo {ADDRESSES['db']} nats >> /etc/hosts", names)
            machine.run("mkdir -p /var/lib/apt/periodic; touch /var/lib/apt/periodic/update-success-stamp")
            if name != "db":
                machine.run("systemctl disable --quiet --now postgresql nats-server")
        machines["db"].run(STORE.format(cluster=CLUSTER))
        machines["db"].run(BUS.format(cluster=CLUSTER))
        made = Site(machines, place, next(wheels.glob("netctl-*.whl")))
        found(made)
        yield made
    finally:
        for machine in machines.values():
            machine.close()
        segment.close()


def found(site: Site) -> None:
    """The steps of the README: identities, the document, services."""
    said, _ = site.play("netctl_service=none")
    document = site.example / "netctl/networks.yaml"
    text = document.read_text()
    for name in (*MEDIATORS, *RELAY):
        host = f"{name}.example.net"
        told = re.search(
            rf"\[{re.escape(host)}\] => \{{\s*\"msg\": .*?(ed25519:[A-Za-z0-9+/]+=)", said, re.DOTALL
        )
        assert told is not None, said
        before, at, after = text.partition(f"{host}:8443")
        text = before + at + re.sub(r"ed25519:[^\"]+", told[1], after, count=1)
    assert load_document(text, "networks.yaml").warnings == ()
    document.write_text(text)
    site.play()


def test_the_mediators_work_together_and_the_relay_runs(site: Site) -> None:
    eventually("each hears the other", site.each_hears_the_other)
    for name, machine in site.machines.items():
        assert machine.run("systemctl --failed --no-legend --plain") == "", name
    assert site["r1"].run("systemctl is-active netctl-relay").strip() == "active"
    assert "relay: 0 bindings" in site["r1"].run("netctl-mediator status --state /var/lib/netctl-relay")
    secrets = {site[name].run("sha256sum < /var/lib/netctl-mediator/relay.secret") for name in MEDIATORS}
    assert len(secrets) == 1, "one secret for the relays of all mediators"
    for name in MEDIATORS:
        assert site[name].run("stat -c %U /var/lib/netctl-mediator/relay.secret").strip() == "netctl-mediator"


def test_a_second_run_changes_nothing(site: Site) -> None:
    _, changed = site.play()
    assert changed == {"m1": 0, "m2": 0, "r1": 0}


def test_passwords_are_credentials_and_in_no_environment_or_command_line(site: Site) -> None:
    passwords = [
        (site.example / "secrets" / name).read_text().strip() for name in ("store-password", "bus-password")
    ]
    for name in MEDIATORS:
        seen = site[name].run(
            "systemctl show netctl-mediator; systemctl cat netctl-mediator; "
            "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2> /dev/null | tr '\\0' ' '; journalctl --no-pager"
        )
        assert not any(password in seen for password in passwords)
        assert site[name].run(
            "stat -c '%U %a' /etc/netctl/store-password /etc/netctl/bus-password"
        ).split() == ["root", "600", "root", "600"]
        line = site[name].run("systemd-analyze security --no-pager netctl-mediator | tail -1")
        level = re.search(r"(\d+\.\d+)", line)
        assert level is not None, line
        assert float(level.group(1)) <= EXPOSURE


def test_a_killed_mediator_is_back_and_a_store_that_was_away_needs_no_restart(site: Site) -> None:
    site["m1"].kill("netctl-mediator")
    eventually("each hears the other", site.each_hears_the_other)
    before = {name: site[name].property("netctl-mediator", "MainPID") for name in MEDIATORS}
    site["db"].run("systemctl stop postgresql")
    eventually("both say so", lambda: all(site.store(name) is not None for name in MEDIATORS))
    site["db"].run("systemctl start postgresql")
    eventually("both have it again", lambda: all(site.store(name) is None for name in MEDIATORS))
    assert {name: site[name].property("netctl-mediator", "MainPID") for name in MEDIATORS} == before
    invite = site["m1"].run("netctl invite staff")
    assert re.search(r"^netctl1\S+$", invite, re.MULTILINE), invite


def test_a_machine_that_was_switched_off_is_back_by_itself(site: Site) -> None:
    site["m2"].power_off()
    eventually("it is missed", lambda: site.others("m1") == [("m2", False)])
    site["m2"].boot()
    eventually("each hears the other", site.each_hears_the_other)


def test_removed_it_leaves_neither_units_nor_passwords(site: Site) -> None:
    site.play("netctl_state=absent")
    for name in MEDIATORS:
        assert site[name].run("ls /etc/netctl") == "networks.yaml\n"
        assert not site[name].works("systemctl cat netctl-mediator")
        assert site[name].works("test -s /var/lib/netctl-mediator/identity.key")
