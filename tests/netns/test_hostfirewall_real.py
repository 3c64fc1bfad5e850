"""A host's own firewall drops what the document allows: it is named, and the command that is named opens it.

one ── internet ── gate ── nas (192.168.77.9, the gateway's `routes`)

The firewalls are the programs themselves: ufw, firewalld with a bus of its own, iptables-nft with a FORWARD chain as
dockerd leaves it, and nft.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.netns.netkit import FILE, Members, internet, members, pings
from tests.netns.onehost import NETCTL
from tests.support.hosts import Host, Program, join, needs_namespaces
from tests.support.patience import BUSY_S, wait_for

pytestmark = [pytest.mark.netns, needs_namespaces]

GATE, NAS = "10.8.0.2", "192.168.77.9"
NETWORK = """  office:
    mode: routed
    ipv4: 10.8.0.0/24
    members: ["*"]
    addresses: {one: 10.8.0.1, gate: 10.8.0.2}
    acls:
      - {name: web, src: [one], dst: [gate, "192.168.77.0/24"], proto: tcp, ports: [80]}
      - {name: ping, src: ["*"], dst: ["*"], proto: icmp}
"""
SERVE = """
import socket
s = socket.create_server(('0.0.0.0', 80)); print('up', flush=True)
while True:
    c, peer = s.accept(); c.sendall(peer[0].encode()); c.close()
"""
CALLS = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def call(address):
    try: return bool(socket.create_connection((address, 80), 1).recv(9))
    except OSError: return False
print(*ThreadPoolExecutor().map(call, sys.argv[1:]))
"""
OWN_ETC = "for d in ufw default firewalld; do [ ! -L /etc/$d ] || { rm /etc/$d; cp -a /etc/.machine/$d /etc/$d; }; done"
"""ufw and firewalld write there; the machine's are links and read-only."""
DOCKER = """
for t in iptables-nft ip6tables-nft; do
  $t -P FORWARD DROP; $t -N DOCKER-USER; $t -A DOCKER-USER -j RETURN; $t -A FORWARD -j DOCKER-USER
  $t -A INPUT -i lo -j ACCEPT; $t -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
  $t -A INPUT -p udp --dport 51820 -j ACCEPT; $t -P INPUT DROP
done
"""
UNDOCKER = """
for t in iptables-nft ip6tables-nft; do
  $t -P FORWARD ACCEPT; $t -P INPUT ACCEPT; $t -F; $t -X DOCKER-USER
done
"""
UFW = f"""{OWN_ETC}
sed -i 's/^MANAGE_BUILTINS=.*/MANAGE_BUILTINS=yes/' /etc/default/ufw
ufw allow 51820/udp && ufw --force enable
"""
NFT = """
table inet mine {
  chain input {
    type filter hook input priority 10; policy drop;
    ct state vmap { established : accept, related : accept, invalid : drop }
    iifname "lo" accept
    meta l4proto { icmp, ipv6-icmp } accept
    udp dport 51820 accept
  }
  chain forward { type filter hook forward priority 10; policy drop; ct state established,related accept; }
}
"""
FIREWALLD_UP = (
    f"firewalld --nopid; timeout {BUSY_S:.0f} sh -c 'until firewall-cmd --state; do sleep 0.1; done'"
)
"""Its first process ends before the daemon has its name on the bus."""
FIREWALLD = f"""{OWN_ETC}
mkdir -p /run/dbus && dbus-daemon --system --fork
{FIREWALLD_UP}
firewall-cmd --zone=drop --change-interface=lan0 && firewall-cmd --add-port=51820/udp
"""


@dataclass(frozen=True)
class Case:
    """How a firewall comes and goes, the programs that it needs, and words of what is said about it."""

    up: str
    down: str
    says: str
    needs: tuple[str, ...] = ()
    take: str = ""
    """Somebody takes away what we have opened."""


NFT_UP = f"nft -f - <<'X'\n{NFT}\nX"
CASES = {
    "nft": Case(
        up=NFT_UP,
        down="nft delete table inet mine",
        says="this host's nftables drops tcp/80 on nctl0",
        take=f"nft delete table inet mine; {NFT_UP}",
    ),
    "docker and iptables": Case(
        up=DOCKER,
        down=UNDOCKER,
        says="Docker's FORWARD chain drops tcp/80 from nctl0 to lan0",
        take="iptables-nft -F DOCKER-USER; iptables-nft -A DOCKER-USER -j RETURN",
    ),
    "ufw": Case(
        up=UFW,
        down="ufw --force reset; ufw disable",
        says="your ufw drops tcp/80 on nctl0",
        take="ufw delete allow in on nctl0",
        needs=("ufw",),
    ),
    "firewalld": Case(
        up=FIREWALLD,
        down="kill $(pgrep -x firewalld) $(pgrep -x dbus-daemon); while pgrep -x firewalld; do sleep 0.1; done; "
        "nft delete table inet firewalld; "
        "rm -rf /run/dbus /etc/firewalld; cp -a /etc/.machine/firewalld /etc/firewalld",
        says="your firewalld drops tcp/80 on nctl0",
        take="firewall-cmd --zone=trusted --remove-interface=nctl0",
        needs=("firewalld", "dbus-daemon"),
    ),
}


def document(there: Members, more: str = "") -> str:
    routes = f"{there.endpoint('gate')}, routes: [192.168.77.0/24]{more}"
    return there.document({"one": there.endpoint("one"), "gate": routes}, NETWORK)


@pytest.fixture(scope="module")
def world() -> Iterator[Members]:
    """Two members and a LAN, with an agent on the gateway; one process that answers on both ports 80."""
    with members("one", "gate") as there:
        internet(there, "one", "gate")
        one, gate, nas = there["one"], there["gate"], there.add("nas")
        join(gate, nas, "192.168.77.1/24", "192.168.77.9/24", "lan0")
        gate.run("ip", "route", "add", "default", "via", "198.18.2.1")
        nas.run("ip", "route", "add", "default", "via", "192.168.77.1")
        gate.run(NETCTL, "keys", "init")
        there.apply(document(there), "one")
        # In its own PID namespace: an agent looks into /proc.
        command = gate.command(NETCTL, "agent", "--drift-every", "1")
        agent = Program(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait_for("the agent answers", lambda: "mediator" in netctl(gate, "status", "-o", "json"))
        applied(gate, document(there))
        servers = [host.start(sys.executable, "-c", SERVE) for host in (gate, nas)]
        for server in servers:
            assert server.stdout is not None
            assert server.stdout.readline() == "up\n"
        assert pings(one, GATE)
        opens(there)
        yield there
    for program in (agent, *servers):
        print(program.communicate()[0])  # they ended with their host


def netctl(host: Host, *arguments: str) -> str:
    return host.run(NETCTL, *arguments, check=False)


def applied(host: Host, text: str) -> str:
    host.run("sh", "-c", f"cat > {FILE}", text=text)
    return host.run(NETCTL, "apply", "--yes")


def conditions(host: Host) -> list[str]:
    found: list[str] = json.loads(netctl(host, "status", "-o", "json"))["conditions"]
    return found


def reached(there: Members) -> tuple[bool, bool]:
    """The gateway's port 80, and that of the LAN behind it."""
    said = there["one"].run(sys.executable, "-c", CALLS, GATE, NAS).split()
    return said[0] == "True", said[1] == "True"


def opens(there: Members) -> None:
    """Both answer, in the end: a busy machine may need more than one try."""
    wait_for("both ports answer", lambda: reached(there) == (True, True))


def missing(case: Case) -> list[str]:
    return [program for program in case.needs if shutil.which(program) is None]


@pytest.mark.parametrize("name", CASES)
def test_what_a_firewall_drops_is_named_and_opened_by_the_key_or_by_the_command_that_is_named(
    world: Members, name: str
) -> None:
    case, gate = CASES[name], world["gate"]
    if missing(case):
        pytest.skip(f"missing: {', '.join(missing(case))}")
    wait_for("nothing is said", lambda: conditions(gate) == [])
    gate.run("sh", "-c", case.up)
    try:
        assert reached(world) == (False, False)
        said: list[str] = []

        def complete() -> bool:
            """Of one look: one that came while the firewall was being set up says less, or more."""
            said[:] = conditions(gate)
            text = "\n".join(said)
            every = all(words in text for words in (case.says, "from nctl0 to lan0", " on nctl0"))
            return every and ("from lan0 to nctl0" in text) is ("docker" in name)

        wait_for("all is said; answers only Docker drops", complete)
        why = netctl(gate, "why", "one", f"{NAS}:80")
        assert "192.168.77.0/24 is behind gate" in why
        assert re.search(r"FAIL .* drops tcp/80 from nctl0 to lan0", why), why
        assert re.search(r"FAIL .* drops tcp/80 on nctl0", netctl(gate, "why", "one", "gate:80"))
        by_the_key(world, case, stops=name == "nft")
        doctor = netctl(gate, "doctor")
        assert f"FAIL {case.says}" in doctor, doctor
        commands = [command for line in said for command in re.findall(r"`([^`]+)`", line)[:-1]]
        for command in dict.fromkeys(commands):
            gate.run("sh", "-c", command)
        opens(world)
        wait_for("nothing more is said", lambda: conditions(gate) == [])
        assert "lets it through" in netctl(gate, "why", "one", f"{NAS}:80")
    finally:
        gate.run("sh", "-c", case.down)
    opens(world)


def by_the_key(there: Members, case: Case, *, stops: bool) -> None:
    """Opened, kept open, and closed again: by a document without the key, and with `stops` by `down` too."""
    gate = there["gate"]
    managed = document(there, ", firewall: manage")
    gate.run("sh", "-c", "cat > /run/managed.yaml", text=managed)
    plan = netctl(gate, "--config", "/run/managed.yaml", "plan")
    assert "+ firewall: " in plan, plan
    assert "warning" not in applied(gate, managed)
    opens(there)
    assert "no changes" in netctl(gate, "plan")
    gate.run("sh", "-c", case.take)
    opens(there)
    if stops:
        netctl(gate, "down")
        assert not left(gate), "it is still open"
        netctl(gate, "up")
        opens(there)
    assert f"warning: {case.says}" in applied(gate, document(there))
    assert not left(gate)
    assert reached(there) == (False, False)


def left(host: Host) -> str:
    """What of others' rulesets names our link."""
    listed = host.run("nft", "-n", "list", "ruleset")
    others = re.sub(r"^table inet netctl \{.*?^\}", "", listed, flags=re.S | re.M)
    return "".join(line for line in others.splitlines() if "nctl0" in line)


def test_elsewhere_it_is_said_where_to_ask(world: Members) -> None:
    one = world["one"]
    said = netctl(one, "why", "one", f"{NAS}:80")
    assert "192.168.77.0/24 is behind gate" in said
    assert "allowed by networks.office.acls[0] (web)" in said
    assert "denied by networks.office.acls (default deny)" in netctl(one, "why", "one", f"{NAS}:81")
    assert "no member of a routed network of one has a route to 192.168.99.1" in netctl(
        one, "why", "one", "192.168.99.1:80"
    )


RELAY_PORTS = (3490, 42000, 42500, 42999)
ECHO = """
import selectors, socket, sys
waiting = selectors.DefaultSelector()
for port in map(int, sys.argv[1:]):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('0.0.0.0', port))
    waiting.register(s, selectors.EVENT_READ)
print('up', flush=True)
while True:
    for key, _ in waiting.select():
        data, peer = key.fileobj.recvfrom(2000); key.fileobj.sendto(data, peer)
"""
ASK = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1)
for port in sys.argv[2:]:
    s.sendto(b'x', (sys.argv[1], int(port)))
found = set()
try:
    while len(found) < len(sys.argv) - 2: found.add(s.recvfrom(2000)[1][1])
except OSError: pass
print(*sorted(found))
"""


def relaying(there: Members, more: str = "") -> str:
    """The document in which the gateway is a relay. No mediator gives grants, so another program stands for it."""
    identity = re.search(r"ed25519:[A-Za-z0-9+/=]+", there["gate"].run(NETCTL, "keys"))
    assert identity is not None
    relay = "relay: {relayPorts: 42000-42999, stun: [3490]}"
    return document(there, f', identity: "{identity[0]}", {relay}{more}')


def answers(there: Members) -> tuple[int, ...]:
    """Which of the relay's ports datagrams from outside come to."""
    words = (there.outside["gate"], *map(str, RELAY_PORTS))
    return tuple(map(int, there["one"].run(sys.executable, "-c", ASK, *words).split()))


def own_relay(host: Host) -> dict[str, Any]:
    found: dict[str, Any] | None = json.loads(netctl(host, "status", "-o", "json"))["own_relay"]
    return found or {}


def rules(host: Host) -> str:
    return host.run("nft", "-n", "list", "ruleset")


@pytest.mark.parametrize("name", CASES)
def test_the_ports_of_a_member_that_relays_are_named_opened_by_the_key_and_closed_again(
    world: Members, name: str
) -> None:
    case, gate = CASES[name], world["gate"]
    if missing(case):
        pytest.skip(f"missing: {', '.join(missing(case))}")
    echo = gate.start(sys.executable, "-c", ECHO, *map(str, RELAY_PORTS))
    assert echo.stdout is not None
    assert echo.stdout.readline() == "up\n"
    applied(gate, relaying(world))
    wait_for("all ports answer", lambda: answers(world) == RELAY_PORTS)
    gate.run("sh", "-c", case.up)
    try:
        wait_for("it is said what is dropped", lambda: own_relay(gate).get("blocked"))
        (line,) = own_relay(gate)["blocked"]
        assert "drops udp/3490, udp/42000-42999 to this member's relay on " in line
        assert line in conditions(gate)
        assert "drops udp/3490, udp/42000-42999 to this member's relay on " in netctl(gate, "doctor")
        assert line in netctl(gate, "why", "one", "gate:80")
        assert answers(world) == ()
        said = applied(gate, relaying(world, ", firewall: manage"))
        assert "to this member's relay" not in said, said
        wait_for("all ports answer", lambda: answers(world) == RELAY_PORTS)
        assert own_relay(gate)["blocked"] == []
        assert "no changes" in netctl(gate, "plan")
        assert "42000" in rules(gate)
        applied(gate, document(world, ", firewall: manage"))
        assert "42000" not in rules(gate), "they are closed with the relay"
        applied(gate, relaying(world, ", firewall: manage"))
        wait_for("all ports answer", lambda: answers(world) == RELAY_PORTS)
        applied(gate, relaying(world))
        assert "42000" not in rules(gate), "they are closed without the key"
        assert "3490" not in rules(gate)
        commands = re.findall(r"`([^`]+)`", own_relay(gate)["blocked"][0])[:-1]
        for command in dict.fromkeys(commands):
            gate.run("sh", "-c", command)
        wait_for("all ports answer", lambda: answers(world) == RELAY_PORTS)
    finally:
        echo.kill()
        echo.communicate()
        gate.run("sh", "-c", case.down)
        applied(gate, document(world))
    opens(world)


OPENER = """
import json, pathlib, sys
from netctl.engine.hostfirewall.opener import Opener
from netctl.engine.hostfirewall.reading import HostFilter
from netctl.model.hoststate import Opening
opener = Opener(pathlib.Path('/run/openings.json'), HostFilter())
getattr(opener, sys.argv[1])(Opening('firewalld', 'input', 'nctl0'))
print(json.dumps([len(opener.recorded()), opener.troubles()]))
"""


def test_of_firewalld_nothing_stays_while_it_is_stopped_and_another_zone_is_kept() -> None:
    case = CASES["firewalld"]
    if missing(case):
        pytest.skip(f"missing: {', '.join(missing(case))}")
    host = Host("fire")
    try:
        host.run("ip", "link", "add", "lan0", "type", "bridge")
        host.run("sh", "-c", case.up)
        zone = "/etc/firewalld/zones/trusted.xml"
        assert json.loads(host.python(OPENER, "open")) == [1, []]
        assert "nctl0" in host.run("cat", zone)
        host.run("sh", "-c", "kill $(pgrep -x firewalld); while pgrep -x firewalld; do sleep 0.1; done")
        assert json.loads(host.python(OPENER, "close")) == [0, []]
        assert "nctl0" not in host.run("cat", zone)
        host.run("sh", "-c", f"{FIREWALLD_UP}; firewall-cmd --zone=work --add-interface=nctl0")
        _, (trouble,) = json.loads(host.python(OPENER, "open"))
        assert "already bound to 'work'" in trouble
        assert json.loads(host.python(OPENER, "close")) == [0, []]
        assert host.run("firewall-cmd", "--get-zone-of-interface=nctl0") == "work\n"
    finally:
        host.close()
