"""The Debian packages on machines with a real systemd: from nothing to the first ping, upgraded under traffic, purged.

The commands are those of the README's quick start, and counted. `make test-machines` tries every distribution.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from machine import Machine, Segment, eventually
from rootfs import BOOTED, DISTRIBUTIONS, ROOT, CannotBeHad, base, why_not

pytestmark = [
    pytest.mark.machines,
    pytest.mark.skipif(bool(why_not()), reason=str(why_not())),
    pytest.mark.skipif("NETCTL_MACHINES" not in os.environ, reason="minutes: `make test-machines` runs it"),
]

ADDRESSES = {"vps": "203.0.113.10", "one": "203.0.113.21", "two": "203.0.113.22"}
PACKAGES = "/mnt/packages"
PING_EVERY_S = 0.05
COMMANDS = 7
"""Of the quick start until the first ping answers: one to install and one to do on each machine, and the ping."""
NEEDS = (*BOOTED, "libseccomp2", "libstdc++6", "netbase")


@dataclass
class Site:
    """Three machines that have nothing of ours, and what was typed on them."""

    machines: dict[str, Machine]
    typed: list[str] = field(default_factory=list)

    def type(self, name: str, command: str, stdin: str = "") -> str:
        """A command that a person types."""
        self.typed.append(f"{name}# {command}")
        return self.machines[name].run(command, stdin)


@pytest.fixture(scope="module", params=os.environ.get("NETCTL_MACHINES", "debian12").split(","))
def distribution(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def packages(distribution: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two revisions of the packages for this distribution."""
    place = tmp_path_factory.mktemp("packages")
    subprocess.run([ROOT / "scripts/lock", "--tool"], check=True, timeout=300)
    for revision in ("1", "2"):
        command = [sys.executable, "-P", ROOT / "packaging/build.py", "deb", distribution, "--into", place]
        environment = {**os.environ, "NETCTL_PACKAGE_REVISION": revision}
        subprocess.run(command, check=True, timeout=900, env=environment)
    return place


@pytest.fixture(scope="module")
def site(distribution: str, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    try:
        lower = base(DISTRIBUTIONS[distribution], NEEDS, "packaged")
    except CannotBeHad as error:
        pytest.skip(str(error))
    segment = Segment()
    place = tmp_path_factory.mktemp("machines")
    machines = {
        name: Machine(name, lower, place / name, segment, address, {PACKAGES: packages})
        for name, address in ADDRESSES.items()
    }
    try:
        for machine in machines.values():
            machine.boot()
        yield Site(machines)
    finally:
        for machine in machines.values():
            machine.close()
        segment.close()


def test_from_nothing_to_the_first_ping(site: Site) -> None:
    # What `apt install ./netctl_*.deb` does where the dependencies are there: a machine in here reaches no mirror.
    install = f"dpkg --install {PACKAGES}/netctl_*-1~*.deb"
    site.type("vps", f"{install} {PACKAGES}/netctl-mediator_*-1~*.deb")
    said = site.type("vps", f"netctl-mediator setup {ADDRESSES['vps']}")
    invite = re.fullmatch(r"netctl1[A-Za-z0-9_-]+", said.strip())
    assert invite is not None, said
    for name in ("one", "two"):
        site.type(name, install)
        assert f"{name} is on home" in site.type(name, "netctl join -", invite.group(0))
    eventually("a ping by name", lambda: site.machines["one"].works("ping -c 1 -W 1 two.home.netctl"))
    site.typed.append("one# ping two.home.netctl")
    assert len(site.typed) == COMMANDS, site.typed
    for machine in site.machines.values():
        assert machine.run("systemctl --failed --no-legend --plain") == ""
    owner = site.machines["vps"].run("stat -c %U /var/lib/netctl-mediator/identity.key").strip()
    assert owner == "netctl-mediator"


def test_an_upgrade_and_a_downgrade_lose_no_packet(site: Site) -> None:
    one = site.machines["one"]
    before = one.property("netctl", "MainPID")
    one.run(f"ping -i {PING_EVERY_S} -q two.home.netctl > /run/pinged 2>&1 & echo $! > /run/pinging")
    for revision in ("2", "1"):
        one.run(f"dpkg --install --force-downgrade {PACKAGES}/netctl_*-{revision}~*.deb")
        eventually("the agent answers", lambda: one.works("netctl status"))
    assert one.property("netctl", "MainPID") != before, "the new agent runs"
    one.run("kill -INT $(cat /run/pinging); sleep 1")
    counts = re.search(r"(\d+) packets transmitted, (\d+) received", one.run("cat /run/pinged"))
    assert counts is not None
    sent, received = map(int, counts.groups())
    assert sent > 20
    assert sent - received <= 1, f"{sent - received} of {sent} lost: at most the one in flight"


def test_a_purge_leaves_nothing(site: Site) -> None:
    for name, machine in site.machines.items():
        names = "netctl-mediator netctl" if name == "vps" else "netctl"
        machine.run(f"dpkg --purge {names}")
        left = machine.run(
            "find / -xdev -name '*netctl*' -not -path '/proc/*' -not -path '/sys/*' -not -path '/mnt/*' "
            "-not -path '/var/log/*' -not -path '/var/cache/*' -not -path '/tmp/*' -not -path '/run/systemd/*'"
        )
        assert left == "", left
        assert "nctl" not in machine.run("ip -o link; nft list ruleset; ip route; ip -6 route")
        assert "netctl" not in machine.run("cat /etc/passwd /etc/group /etc/hosts")
