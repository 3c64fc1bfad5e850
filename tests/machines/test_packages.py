"""The packages on machines with a real systemd: from nothing to the first ping, upgraded under traffic, removed.

The commands are those of the README's quick start, and counted. `make test-machines` tries every distribution.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tests.machines.machine import Machine, Segment, eventually
from tests.machines.packagers import PACKAGERS, PLACE, STAND_IN, Dpkg, Rpm
from tests.machines.rootfs import ROOT, CannotBeHad, why_not

pytestmark = [
    pytest.mark.machines,
    pytest.mark.skipif(bool(why_not()), reason=str(why_not())),
]

ADDRESSES = {"vps": "203.0.113.10", "one": "203.0.113.21"}
if "NETCTL_MACHINES" in os.environ:  # `make test` does without a second host: it takes a third of the time
    ADDRESSES["two"] = "203.0.113.22"
PING_EVERY_S = 0.05
COMMANDS = 5
"""Of the quick start until the first ping answers, which is one of them: two a machine."""


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
def packager(request: pytest.FixtureRequest) -> Dpkg | Rpm:
    return PACKAGERS[request.param]


@pytest.fixture(scope="module")
def lower(packager: Dpkg | Rpm) -> Path:
    """The root file system of the machines; where none can be had, nothing is built."""
    try:
        return packager.lower()
    except CannotBeHad as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def packages(packager: Dpkg | Rpm, lower: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two revisions of the packages for this distribution."""
    place = tmp_path_factory.mktemp("packages")
    subprocess.run([ROOT / "scripts/lock", "--tool"], check=True, timeout=300)
    command = [sys.executable, "-P", str(ROOT / "packaging/build.py"), packager.kind, packager.distribution]
    command += ["--into", str(place), "--revision", "1", "--revision", "2"]
    subprocess.run(command, check=True, timeout=900)
    packager.prepare(place)
    return place


@pytest.fixture(scope="module")
def site(lower: Path, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    segment = Segment()
    place = tmp_path_factory.mktemp("machines")
    machines = {
        name: Machine(name, lower, place / name, segment, address, {PLACE: packages})
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


def quick_start() -> dict[str, list[str]]:
    """The commands of the README's quick start: by the comment above them, without what is said beside them."""
    section = (ROOT / "README.md").read_text().partition("\n## Quick start")[2]
    block = section.partition("```sh\n")[2].partition("```")[0]
    found: dict[str, list[str]] = {}
    for line in block.splitlines():
        if line.startswith("# "):
            found[line] = said = []
        elif line:
            said.append(line.partition("#")[0].strip().removeprefix("sudo "))
    return found


def type_all(site: Site, packager: Dpkg | Rpm, name: str, commands: list[str], stdin: str = "") -> str:
    """A person's commands on one machine, the ping until it answers; what they printed."""
    said = ""
    for command in commands:
        if command.startswith(
            "apt install"
        ):  # what it does without a mirror, which no machine reaches in here
            said += site.type(name, packager.install("1", *re.findall(r"\./([a-z-]+)_", command)))
        elif command.startswith("ping"):
            site.typed.append(f"{name}# {command}")
            ping = command.replace("ping ", "ping -c 1 -W 1 ")
            eventually("a ping by name", partial(site.machines[name].works, ping))
        else:
            said += site.type(name, command.replace("vps.example.org", ADDRESSES["vps"]), stdin)
    return said


def test_from_nothing_to_the_first_ping(site: Site, packager: Dpkg | Rpm) -> None:
    if isinstance(packager, Rpm):
        site.machines["vps"].run(f"dpkg --status {' '.join(STAND_IN.values())}")  # it has what it says it has
    on_the_vps, on_each_host = quick_start().values()
    began = time.monotonic()
    said = type_all(site, packager, "vps", on_the_vps)
    invite = re.search(r"^netctl1[A-Za-z0-9_-]+$", said, re.MULTILINE)
    assert invite is not None, said
    assert "one is on home" in type_all(site, packager, "one", on_each_host, invite.group(0))
    print(f"first ping after {time.monotonic() - began:.0f} s and {len(site.typed)} commands")
    assert len(site.typed) == COMMANDS, site.typed
    if "two" in site.machines:
        assert "two is on home" in type_all(site, packager, "two", on_each_host, invite.group(0))
        eventually(
            "hosts reach each other", lambda: site.machines["one"].works("ping -c 1 -W 1 two.home.netctl")
        )
    for machine in site.machines.values():
        assert machine.run("systemctl --failed --no-legend --plain") == ""
    # Store and bus of several mediators need no further package.
    site.machines["vps"].run("/usr/lib/netctl/bin/python3 -P -c 'import nats, psycopg; psycopg.pq.version()'")
    owner = site.machines["vps"].run("stat -c %U /var/lib/netctl-mediator/identity.key").strip()
    assert owner == "netctl-mediator"


def test_an_upgrade_and_a_downgrade_lose_no_packet(site: Site, packager: Dpkg | Rpm) -> None:
    one, other = site.machines["one"], "two" if "two" in site.machines else "vps"
    before = one.property("netctl", "MainPID")
    one.run(f"ping -i {PING_EVERY_S} -q {other}.home.netctl > /run/pinged 2>&1 & echo $! > /run/pinging")
    for revision in ("2", "1"):
        one.run(packager.install(revision, "netctl"))
        eventually("the agent answers", lambda: one.works("netctl status"))
    assert one.property("netctl", "MainPID") != before, "the new agent runs"
    one.run("kill -INT $(cat /run/pinging)")
    eventually("it has counted", lambda: "packets transmitted" in one.run("cat /run/pinged"))
    counts = re.search(r"(\d+) packets transmitted, (\d+) received", one.run("cat /run/pinged"))
    assert counts is not None
    sent, received = map(int, counts.groups())
    assert sent > 20
    assert sent - received <= 1, f"{sent - received} of {sent} lost: at most the one in flight"


def test_removed_it_leaves_nothing(site: Site, packager: Dpkg | Rpm) -> None:
    """rpm knows no purge: there keys, the document and the server's state and users stay, as the docs say."""
    kept = () if isinstance(packager, Dpkg) else ("/etc/netctl", "/var/lib/netctl", "/var/lib/netctl-*")
    outside = (
        "/proc/*",
        "/sys/*",
        "/mnt/*",
        "/opt/*",
        "/var/log/*",
        "/var/cache/*",
        "/tmp/*",
        "/run/systemd/*",
    )
    for name, machine in site.machines.items():
        machine.run(packager.remove(*(["netctl-mediator"] if name == "vps" else []), "netctl"))
        excluded = " ".join(f"-not -path '{path}' -not -path '{path}/*'" for path in (*outside, *kept))
        left = machine.run(f"find / -xdev -name '*netctl*' {excluded}")
        assert left == "", left
        assert "nctl" not in machine.run("ip -o link; nft list ruleset; ip route; ip -6 route")
        assert "netctl" not in machine.run("cat /etc/hosts; systemctl list-units --all --plain")
        if isinstance(packager, Dpkg):
            assert "netctl" not in machine.run("cat /etc/passwd /etc/group")
            assert machine.run("find / -xdev -nouser -not -path '/proc/*'") == ""
        else:
            machine.run("test -s /etc/netctl/networks.yaml -o -s /var/lib/netctl/wireguard.key")
