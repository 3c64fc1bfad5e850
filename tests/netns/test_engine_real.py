"""The Linux engine on real hosts: two of them, static endpoints, a lan and a routed network."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.netns.netkit import pings
from tests.support.hosts import Host, join, needs_namespaces
from tests.support.patience import BUSY_S, wait_for

pytestmark = [pytest.mark.netns, needs_namespaces]

DOCUMENT = """
apiVersion: netctl/v1
members:
  one: {{wireguard: "{one}", endpoints: ["192.0.2.1:51820"], groups: [admins]}}
  two: {{wireguard: "{two}", endpoints: ["192.0.2.2:51820"]}}
networks:
  party: {{mode: lan, ipv4: 10.9.0.0/24, members: ["*"], addresses: {{one: 10.9.0.1, two: 10.9.0.2}}}}
  office:
    mode: routed
    ipv4: 10.8.0.0/24
    members: ["*"]
    addresses: {{one: 10.8.0.1, two: 10.8.0.2}}
    acls:
      - {{name: ping, src: ["*"], dst: ["*"], proto: icmp}}
      - {{name: web, src: ["group:admins"], dst: [two], proto: tcp, ports: [8080]}}
"""
APPLY = """
import sys, pathlib
from netctl.config import load_document, resolve
from netctl.engine import open_engine, apply_plan
from netctl.model.hoststate import HostState
from netctl.plan import diff, describe
document = load_document(open('/etc/netctl/networks.yaml').read()).document
state = pathlib.Path('/var/lib/netctl')
live = frozenset(member.wireguard for member in document.members.values())
engine = open_engine(state / 'wireguard.key', kind='wireguard-go', state_dir=state)
desired = HostState() if sys.argv[2] == 'down' else resolve(document, sys.argv[1], None, live=live).state
outcome = apply_plan(engine, desired, progress=print)
left = describe(diff(desired, engine.read()))
print('OUTCOME', outcome.changed, outcome.rolled_back, outcome.error, left)
engine.close()
"""


def test_rulesets_without_members_load() -> None:
    """A table for a host with no peers yet is a valid one too."""
    host = Host("solo")
    try:
        code = (
            "from pathlib import Path\nfrom netctl.engine.filter.nftables import Nftables\n"
            "from netctl.model.hoststate import FilterTable\n"
            "n = Nftables(Path('/run/record'))\nt = FilterTable(frozenset({'nctl0'}), ())\n"
            "n.set(t)\nassert n.read() == t\n"
            "import subprocess\nsubprocess.run(['nft','flush','chain','inet','netctl','guard'],check=True)\n"
            "assert n.read() != t\nn.remove()\nassert n.read() is None\nprint('good')"
        )
        assert host.python(code).strip() == "good"
    finally:
        host.close()


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Host, Host]]:
    one, two = Host("one"), Host("two")
    try:
        join(one, two, "192.0.2.1/24", "192.0.2.2/24")
        keys = {host.name: X25519PrivateKey.generate() for host in (one, two)}
        public = {
            name: base64.b64encode(key.public_key().public_bytes_raw()).decode() for name, key in keys.items()
        }
        for host in (one, two):
            private = base64.b64encode(keys[host.name].private_bytes_raw()).decode()
            host.run("sh", "-c", "umask 077; cat > /var/lib/netctl/wireguard.key", text=private)
            host.run("sh", "-c", "cat > /etc/netctl/networks.yaml", text=DOCUMENT.format(**public))
            output = host.python(APPLY, host.name, "up")
            assert "None []" in output, output
        yield one, two
    finally:
        one.close()
        two.close()


def can_connect(source: Host, address: str, port: int) -> bool:
    code = f"import socket; socket.create_connection(('{address}', {port}), 1.5); print('connected')"
    return "connected\n" in source.run("python3", "-c", code, check=False)


def test_second_apply_changes_nothing(pair: tuple[Host, Host]) -> None:
    one, _ = pair
    assert "OUTCOME 0 False None []" in one.python(APPLY, "one", "up")


def test_ping_by_name_in_both_networks(pair: tuple[Host, Host]) -> None:
    one, _ = pair
    for name in ("two.office.netctl", "two.party.netctl"):
        for family in ("-4", "-6"):
            assert pings(one, name, family)


def test_acl_lets_one_port_through_and_blocks_another(pair: tuple[Host, Host]) -> None:
    one, two = pair
    listen = (
        "import socket,time\n"
        "a=[socket.create_server(('', p)) for p in (8080, 9090)]\n"
        "print('up',flush=True)\n"
        "time.sleep(3000)"
    )
    server = two.start("python3", "-c", listen)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "up\n"
        wait_for("the port that is allowed answers", lambda: can_connect(one, "10.8.0.2", 8080))
        assert not can_connect(one, "10.8.0.2", 9090)
        wait_for("the lan network has no acls", lambda: can_connect(one, "10.9.0.2", 9090))
    finally:
        server.kill()
        server.communicate()


def test_broadcast_is_heard_in_the_segment(pair: tuple[Host, Host]) -> None:
    one, two = pair
    listen = (
        "import socket\n"
        "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n"
        "s.bind(('',7777))\n"
        "s.settimeout(120)\n"
        "print('up',flush=True)\n"
        "print(s.recvfrom(100))"
    )
    receiver = two.start("python3", "-c", listen)
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "up\n"
    send = (
        "import socket\n"
        "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n"
        "s.setsockopt(socket.SOL_SOCKET,socket.SO_BROADCAST,1)\n"
        "s.sendto(b'hello lan',('10.9.0.255',7777))"
    )
    one.run("python3", "-c", send)
    output, _ = receiver.communicate(timeout=BUSY_S)
    assert "hello lan" in output
    assert "10.9.0.1" in output


def test_a_change_to_one_peer_keeps_its_session(pair: tuple[Host, Host]) -> None:
    one, _ = pair

    def young() -> bool:
        """A session that is older than 120 s is made anew by whoever sends."""
        assert pings(one, "10.8.0.2")
        return time.time() - int(one.run("wg", "show", "nctl0", "latest-handshakes").split()[1]) < 100

    wait_for("a session that stays for a while", young)
    before = one.run("wg", "show", "nctl0", "latest-handshakes")
    document = one.run("cat", "/etc/netctl/networks.yaml")
    changed = document.replace("two: {wireguard", "two: {routes: [192.168.77.0/24], wireguard")
    one.run("sh", "-c", "cat > /etc/netctl/networks.yaml", text=changed)
    output = one.python(APPLY, "one", "up")
    assert "~ peer" in output
    assert "None []" in output
    assert one.run("wg", "show", "nctl0", "latest-handshakes") == before
    one.run("sh", "-c", "cat > /etc/netctl/networks.yaml", text=document)
    assert "None []" in one.python(APPLY, "one", "up")


def test_drift_is_seen_and_healed(pair: tuple[Host, Host]) -> None:
    one, _ = pair
    one.run("nft", "flush", "chain", "inet", "netctl", "guard")
    one.run("ip", "route", "del", "10.8.0.0/24")
    output = one.python(APPLY, "one", "up")
    assert "~ filter" in output
    assert "+ route 10.8.0.0/24" in output
    assert "None []" in output


def test_a_port_in_use_is_named_and_nothing_is_left(pair: tuple[Host, Host]) -> None:
    host = Host("third")
    try:
        one, _ = pair
        for path in ("/etc/netctl/networks.yaml", "/var/lib/netctl/wireguard.key"):
            host.run("sh", "-c", f"cat > {path}", text=one.run("cat", path))
        code = (
            "import socket,time\n"
            "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n"
            "s.bind(('',51820))\n"
            "print('up',flush=True)\n"
            "time.sleep(3000)"
        )
        squatter = host.start("python3", "-c", code)
        assert squatter.stdout is not None
        assert squatter.stdout.readline() == "up\n"
        output = host.python(APPLY, "one", "up")
        assert "UDP port 51820 is in use" in output
        # What guards the link comes before the link, and goes again with it.
        assert re.search(r"^OUTCOME \d+ True ", output, re.MULTILINE)
        assert "nctl0" not in host.run("ip", "link")
        assert "netctl" not in host.run("nft", "list", "tables")
        for family in ("-4", "-6"):
            assert "unreachable" not in host.run(
                "ip", family, "route", "show", "table", "all", "proto", "201"
            )
        squatter.kill()
        squatter.communicate()
    finally:
        host.close()


def test_down_leaves_nothing(pair: tuple[Host, Host]) -> None:
    one, _ = pair
    assert "None []" in one.python(APPLY, "one", "down")
    assert "nctl0" not in one.run("ip", "link")
    assert "nseg" not in one.run("ip", "link")
    assert "netctl" not in one.run("nft", "list", "tables")
    assert "netctl" not in one.run("cat", "/etc/hosts")
    wait_for("the engine ends", lambda: not one.run("pgrep", "-x", "wireguard-go", check=False))
