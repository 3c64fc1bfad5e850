"""Three machines with a real systemd: a mediator with its relay, and two members, installed from this checkout.

What is tried here is what only a real systemd can show: users, sandboxes, restarts, a reboot. One distribution is a
part of `make test`; `make test-machines` tries all (NETCTL_MACHINES=debian12,debian13,ubuntu24.04).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from netctl import __version__
from tests.machines.machine import Machine, Segment, eventually
from tests.machines.rootfs import DISTRIBUTIONS, ROOT, CannotBeHad, why_not, with_locked_packages

pytestmark = [pytest.mark.machines, pytest.mark.skipif(bool(why_not()), reason=str(why_not()))]

VPS, ONE, TWO = "203.0.113.10", "203.0.113.21", "203.0.113.22"
CHECKOUT = "/mnt/checkout"
MEDIATOR_UNITS = ("netctl-mediator", "netctl-relay")
EXPOSURE = {"netctl": 5.0, "netctl-sync": 5.0, "netctl-relay": 2.5, "netctl-mediator": 2.1}
"""`systemd-analyze security`: 0 is no exposure, 10 is all that a service without any limits has."""
KILLS = 7
"""More than systemd's own limit takes in ten seconds (five starts) before it gives a unit up for good."""
BACK_S = 10.0
"""A member that was switched on answers so long after it has its network."""


@dataclass(frozen=True)
class Site:
    """The three machines."""

    vps: Machine
    one: Machine
    two: Machine


WANTED = os.environ.get("NETCTL_MACHINES", "debian12").split(",")


@pytest.fixture(scope="module", params=[one for one in WANTED if one in DISTRIBUTIONS])
def lower(request: pytest.FixtureRequest) -> Path:
    try:
        return with_locked_packages(DISTRIBUTIONS[request.param])
    except CannotBeHad as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an administrator copies to a machine: a wheel, units, users."""
    place = tmp_path_factory.mktemp("checkout")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(place), str(ROOT)], check=True)
    subprocess.run(["cp", "-r", str(ROOT / "packaging"), str(place)], check=True)
    return place


def install(machine: Machine) -> None:
    """As the README says, from a checkout; the locked packages are there."""
    machine.run(
        f"/opt/netctl/bin/pip install --quiet --no-index --no-deps {CHECKOUT}/*.whl; "
        "ln -s /opt/netctl/bin/netctl /opt/netctl/bin/netctl-wg /opt/netctl/bin/netctl-mediator /usr/local/bin/; "
        f"install -D -m 644 -t /etc/sysusers.d {CHECKOUT}/packaging/sysusers/*.conf; systemd-sysusers; "
        f"install -m 644 -t /etc/systemd/system {CHECKOUT}/packaging/systemd/*.service; systemctl daemon-reload"
    )


@pytest.fixture(scope="module")
def site(lower: Path, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    segment = Segment()
    place = tmp_path_factory.mktemp("machines")
    bound = {CHECKOUT: checkout}
    machines = [
        Machine(name, lower, place / name, segment, address, bound)
        for name, address in (("vps", VPS), ("one", ONE), ("two", TWO))
    ]
    try:
        for machine in machines:
            machine.boot()
            install(machine)
        made = Site(*machines)
        found(made)
        yield made
    finally:
        for machine in machines:
            machine.close()
        segment.close()


def found(site: Site) -> None:
    """A mediator with its relay, and a network of two members."""
    pins = site.vps.run(f"netctl-mediator init --host {VPS} 2> /dev/null")
    identity = re.search(r"ed25519:[^\"]+", pins)
    assert identity is not None
    members = ""
    for machine in (site.one, site.two):
        keys = machine.run("netctl keys init 2> /dev/null")
        said = re.search(r"\{.*\}", keys)
        assert said is not None, keys
        members += f"  {machine.name}: {said.group(0)}\n"
    document = (
        "apiVersion: netctl/v1\nid: kx3m-p9qd\nmediators:\n"
        f'  - {{url: "netctl://{VPS}:8443", identity: ["{identity.group(0)}"], tls: [443]}}\n'
        f"members:\n{members}"
        'networks:\n  home: {mode: lan, ipv4: 10.147.20.0/24, members: ["*"], join: {invites: true}}\n'
    )
    for machine in (site.vps, site.one, site.two):
        machine.write("/etc/netctl/networks.yaml", document)
    site.vps.run("systemctl enable --now netctl-mediator netctl-relay")
    for machine in (site.one, site.two):
        machine.run("systemctl enable --now netctl")
        eventually("the agent answers", partial(machine.works, "netctl status"))
        machine.run("netctl up")


def reaches(site: Site) -> bool:
    """Whether the members ping each other by name, over the tunnel."""
    return site.one.works("ping -c 1 -W 1 two.home.netctl") and site.two.works(
        "ping -c 1 -W 1 one.home.netctl"
    )


def said(site: Site) -> str:
    """What the machines say, for a failure."""
    return "\n".join(
        machine.journal(unit)
        for machine, unit in (
            (site.vps, "netctl-mediator"),
            (site.vps, "netctl-relay"),
            (site.one, "netctl"),
            (site.two, "netctl"),
        )
    )


def test_members_ping_each_other(site: Site) -> None:
    try:
        eventually("a ping by name both ways", lambda: reaches(site))
    except AssertionError:
        print(said(site))
        raise
    for machine in (site.one, site.two):
        assert "netctl-home" not in machine.run("systemctl --failed --no-legend --plain")


def test_version_tells_of_the_agent_and_support_the_same(site: Site) -> None:
    known = json.loads(site.one.run("netctl version -o json"))
    assert known["agent"]["version"] == known["netctl"] == __version__
    assert known["agent"]["engine"] == known["engine"]["auto"]
    assert f"agent      {__version__}, with {known['agent']['engine']}" in site.one.run("netctl version")
    bundled = site.one.run(
        "cd /run; netctl support --out s.tar.gz > /dev/null 2>&1; tar -xzOf s.tar.gz netctl-support/version.json"
    )
    assert {**json.loads(bundled), "packages": {}} == {**known, "packages": {}}


def has_main_pid(machine: Machine, unit: str) -> bool:
    return machine.property(unit, "MainPID") != "0"


def test_servers_have_users_of_their_own(site: Site) -> None:
    for unit in MEDIATOR_UNITS:
        eventually(f"{unit} runs", partial(has_main_pid, site.vps, unit))
        pid = site.vps.property(unit, "MainPID")
        assert site.vps.run(f"stat -c %U /proc/{pid}").strip() == unit
        assert "NoNewPrivs:\t1" in site.vps.run(f"cat /proc/{pid}/status")


def test_the_relay_reads_neither_identity_nor_store(site: Site) -> None:
    """As the relay's user, and within the relay's own sandbox."""
    state = "/var/lib/netctl-mediator"
    site.vps.run(f"test -s {state}/identity.key && test -s {state}/mediator.db")
    pid = site.vps.property("netctl-relay", "MainPID")
    as_relay = (
        "setpriv --reuid netctl-relay --regid netctl-relay --init-groups --bounding-set=-all --inh-caps=-all"
    )
    for name in ("identity.key", "mediator.db", "relay.secret"):
        assert not site.vps.works(f"{as_relay} cat {state}/{name}")
        assert not site.vps.works(f"nsenter --target {pid} --mount -- {as_relay} cat {state}/{name}")
    assert site.vps.works(f"{as_relay} cat /var/lib/netctl-relay/relay.pem")
    assert "identity" not in site.vps.run("ls /var/lib/netctl-relay")
    nobody = "setpriv --reuid nobody --regid nogroup --clear-groups --bounding-set=-all --inh-caps=-all"
    for name in ("relay.pem", "relay.secret", "relay.sock"):
        assert not site.vps.works(f"{nobody} cat /var/lib/netctl-relay/{name}")


def test_the_mediator_hears_its_relay(site: Site) -> None:
    status = "netctl-mediator status -o json"
    eventually("its relay is told of", lambda: '"relay": {' in site.vps.run(status))


def test_a_member_whose_udp_is_blocked_takes_the_relay_over_tls(site: Site) -> None:
    """The relay shows a certificate of its own, which the pinned identity has signed."""
    eventually("a ping by name both ways", lambda: reaches(site))
    site.one.run(
        "nft 'add table ip blocked; add chain ip blocked out {type filter hook output priority -300;};"
        f"add rule ip blocked out ip daddr {{{VPS}, {TWO}}} meta l4proto 17 drop'"
    )
    try:
        eventually("packets over TLS", lambda: "relay-tls" in site.one.run("netctl status || true"))
        eventually("a ping by name both ways", lambda: reaches(site))
    except AssertionError:
        print(said(site))
        raise
    finally:
        site.one.run("nft delete table ip blocked")


@pytest.mark.parametrize("unit", sorted(EXPOSURE))
def test_exposure(site: Site, unit: str) -> None:
    machine = site.vps if unit in MEDIATOR_UNITS else site.one
    line = machine.run(f"systemd-analyze security --no-pager {unit} | tail -1")
    level = re.search(r"(\d+\.\d+)", line)
    assert level is not None, line
    print(unit, level.group(1))
    assert float(level.group(1)) <= EXPOSURE[unit], machine.run(f"systemd-analyze security --no-pager {unit}")


def test_units_are_sound(site: Site) -> None:
    """Keys that an older systemd does not know are named by it, and are no fault."""
    for unit in sorted(EXPOSURE):
        done = site.vps.attempt(
            ["systemd-analyze", "verify", "--man=no", f"/etc/systemd/system/{unit}.service"]
        )
        lines = (done.stdout + done.stderr).splitlines()
        strange = [
            line for line in lines if unit in line and not re.search("RestartSteps|RestartMaxDelaySec", line)
        ]
        assert not strange, strange


@pytest.mark.parametrize("unit", ["netctl", "netctl-mediator", "netctl-relay", "netctl-sync"])
def test_quick_kills_leave_no_unit_dead(site: Site, unit: str) -> None:
    machine = site.vps if unit in MEDIATOR_UNITS else site.one
    if unit == "netctl-sync":
        follow(machine)
    killed = ["0"]
    for _ in range(KILLS):
        eventually(f"{unit} runs", lambda: machine.property(unit, "MainPID") not in killed)
        killed.append(str(machine.kill(unit)))
    eventually(f"{unit} is back", lambda: machine.property(unit, "MainPID") not in killed)
    eventually(f"{unit} is active", lambda: machine.works(f"systemctl is-active {unit}"))
    assert int(machine.property(unit, "NRestarts")) >= KILLS
    eventually("a ping by name both ways", lambda: reaches(site))


def follow(machine: Machine) -> None:
    """A repository on the machine itself, which netctl-sync follows."""
    machine.run(
        "git init -q -b main /srv/net; cd /srv/net; git config user.name x; git config user.email x@example.net; "
        "cp /etc/netctl/networks.yaml .; git add .; git commit -q -m first; "
        "printf 'NETCTL_SYNC_REPOSITORY=file:///srv/net\\nNETCTL_SYNC=--interval 2\\n' > /etc/netctl/sync.env; "
        "systemctl start netctl-sync"
    )
    commit = machine.run("git -C /srv/net rev-parse HEAD").strip()
    try:
        eventually("it follows", lambda: commit[:7] in machine.run("netctl sync status || true"))
    except AssertionError:
        print(machine.run("netctl sync status 2>&1 || true"), machine.journal("netctl-sync"))
        raise
    assert machine.property("netctl-sync", "NRestarts") == "0", machine.journal("netctl-sync")


def test_a_switched_off_member_is_back_within_seconds_of_its_network(site: Site) -> None:
    eventually("a ping by name both ways", lambda: reaches(site))
    site.two.power_off()
    site.two.boot(cable=False)
    eventually("the agent answers", lambda: site.two.works("netctl status"))
    began = time.monotonic()
    site.two.plug()
    eventually("a ping by name both ways", lambda: reaches(site))
    took = time.monotonic() - began
    print(f"back after {took:.1f} s")
    assert took < BACK_S, f"{took:.1f} s\n{said(site)}"


def test_a_state_directory_of_root_becomes_the_mediators(site: Site) -> None:
    """Installations from before had everything as root; what root restores later is the mediator's too."""
    state = "/var/lib/netctl-mediator"
    site.vps.run(f"systemctl stop netctl-mediator netctl-relay; chown -R root:root {state}")
    before = site.vps.run(f"sha256sum {state}/identity.key")
    site.vps.run("systemctl start netctl-relay netctl-mediator")
    assert (
        site.vps.run(f"stat -c %U {state}/identity.key {state}/mediator.db").split()
        == ["netctl-mediator"] * 2
    )
    site.vps.run("netctl-mediator backup --force /root/backup.tar; systemctl stop netctl-mediator")
    site.vps.run("netctl-mediator restore --force /root/backup.tar; systemctl start netctl-mediator")
    assert site.vps.run(f"sha256sum {state}/identity.key") == before
    eventually("a ping by name both ways", lambda: reaches(site))
    eventually(
        "both members are online", lambda: '"online": 2' in site.vps.run("netctl-mediator status -o json")
    )
