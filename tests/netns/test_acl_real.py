"""ACLs on real hosts: a narrowed one ends its flows and no other; what the offline evaluator says, packets do."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from netctl.config import load_document, resolve
from netctl.config.load.acl import Evaluator
from netctl.engine.filter.nftables import plain_table
from netctl.model.document import Document
from tests.support.hosts import Host, join, needs_namespaces
from tests.support.patience import wait_for

pytestmark = [pytest.mark.netns, needs_namespaces]

LOAD = """
import sys, json
from pathlib import Path
from netctl.engine.filter.nftables import Nftables, table_of
n = Nftables(Path('/run/record'))
t = table_of(json.load(sys.stdin))
n.set(t)
assert n.read() == t, 'drift right after loading'
print('loaded')
"""
SERVE = """
import socket, threading
def echo(c):
    try:
        while (d := c.recv(100)): c.sendall(d)
    except OSError: pass
def serve(s):
    while True: threading.Thread(target=echo, args=(s.accept()[0],), daemon=True).start()
servers = [socket.create_server(('::', p), family=socket.AF_INET6, dualstack_ipv6=True) for p in (22, 80)]
for s in servers: threading.Thread(target=serve, args=(s,), daemon=True).start()
import time; print('up', flush=True); time.sleep(3000)
"""
HOLD = """
import json, select, socket, sys, time
c = {}
for a in sys.argv[1:]:
    h, p = a.rsplit('/', 1); c[a] = socket.create_connection((h, int(p)), 60)
print('open', flush=True)
for line in sys.stdin:
    # All at once. Who is to live is waited for, as long as a busy machine needs; then who is dead, who says nothing.
    wanted = {s for s, lives in zip(c.values(), json.loads(line)) if lives}
    alive, start = set(), time.monotonic()
    for s in c.values():
        try: s.sendall(b'x')
        except OSError: pass
    while len(alive) < len(c) and (left := start + (4 if wanted <= alive else 240) - time.monotonic()) > 0:
        for s in select.select([s for s in c.values() if s not in alive], [], [], left)[0]:
            try: alive |= {s} if set(s.recv(10)) == set(b'x') else set()
            except OSError: time.sleep(0.05)
    print([s in alive for s in c.values()], flush=True)
"""
COUNT = 6
MORE = int(os.environ.get("NETCTL_ACL_DOCUMENTS", str(COUNT)))
"""Documents of the property test; each gets PACKETS packets."""
PACKETS = 150
SEND = """
import sys, json, socket, struct
def csum(b):
    b += b'\\0' * (len(b) % 2); s = sum(struct.unpack('!%dH' % (len(b)//2), b))
    while s >> 16: s = (s & 65535) + (s >> 16)
    return ~s & 65535
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); raw.bind(('nctl0', 0)); mac = bytes.fromhex(sys.argv[1])
for n, (src, dst, proto, port) in enumerate(json.load(sys.stdin)):
    v6 = ':' in src; fam = socket.AF_INET6 if v6 else socket.AF_INET
    s, d = socket.inet_pton(fam, src), socket.inet_pton(fam, dst)
    mark = struct.pack('!I', n); num = {'tcp': 6, 'udp': 17, 'icmp': 58 if v6 else 1}[proto]
    sport = 10000 + n
    if proto == 'tcp': body = struct.pack('!HHIIBBHHH', sport, port, n, 0, 0x50, 2, 1000, 0, 0)
    elif proto == 'udp': body = struct.pack('!HHHH', sport, port, 12, 0) + mark
    else: body = struct.pack('!BBHHH', 128 if v6 else 8, 0, 0, sport, 1)
    pseudo = s + d + (struct.pack('!II', len(body), num) if v6 else struct.pack('!BBH', 0, num, len(body)))
    c = csum(body if proto == 'icmp' and not v6 else pseudo + body)
    at = {'tcp': 16, 'udp': 6, 'icmp': 2}[proto]
    body = body[:at] + struct.pack('!H', c or 65535) + body[at+2:]
    if v6: head = struct.pack('!IHBB', 6 << 28, len(body), num, 64) + s + d
    else:
        head = struct.pack('!BBHHHBBH', 0x45, 0, 20 + len(body), n, 0, 64, num, 0) + s + d
        head = head[:10] + struct.pack('!H', csum(head)) + head[12:]
    raw.send(mac + bytes(6) + struct.pack('!H', 0x86dd if v6 else 0x0800) + head + body)
print('sent')
"""
WITNESS = """
table inet witness {
  set seen { type inet_service; flags dynamic; size 65535; }
  set pings { typeof icmp id; flags dynamic; size 65535; }
  chain got { meta l4proto { 6, 17 } add @seen { th sport }
    icmp type echo-request add @pings { icmp id }
    icmpv6 type echo-request add @pings { icmpv6 id }
  }
  chain input { type filter hook input priority 100; iifname "nctl0" jump got; }
  chain forward { type filter hook forward priority 100; iifname "nctl0" jump got; }
}
"""


def keys(*names: str) -> dict[str, str]:
    """A public key for each name."""
    made = {name: X25519PrivateKey.generate().public_key().public_bytes_raw() for name in names}
    return {name: base64.b64encode(raw).decode() for name, raw in made.items()}


def load(host: Host, document: Document, name: str) -> None:
    """Put the table of this member in place on a host."""
    table = resolve(document, name, None).state.filter
    assert table is not None
    code = ["sh", "-c", 'exec "$0" -c "$1"', sys.executable, LOAD]
    assert host.run(*code, text=json.dumps(plain_table(table))).strip() == "loaded"


@pytest.fixture
def pair() -> Iterator[tuple[Host, Host]]:
    """Two hosts whose cable is called as the tunnel link is: the table is of addresses, not of tunnels."""
    one, two = Host("one"), Host("two")
    try:
        join(one, two, "10.8.0.1/24", "10.8.0.2/24", "nctl0")
        for host, address in ((one, "fd00:8::1/64"), (two, "fd00:8::2/64")):
            host.run("ip", "addr", "add", address, "dev", "nctl0", "nodad")
        yield one, two
    finally:
        one.close()
        two.close()


def narrowed(ports: str) -> Document:
    """A document whose only rule opens these ports."""
    public = keys("one", "two")
    document = load_document(
        f"""
apiVersion: netctl/v1
members:
  one: {{wireguard: "{public["one"]}"}}
  two: {{wireguard: "{public["two"]}"}}
networks:
  office:
    mode: routed
    ipv4: 10.8.0.0/24
    ipv6: fd00:8::/64
    members: ["*"]
    addresses: {{one: [10.8.0.1, "fd00:8::1"], two: [10.8.0.2, "fd00:8::2"]}}
    acls: [{{name: some, src: [one], dst: [two], proto: tcp, ports: [{ports}]}}]
"""
    ).document
    assert document is not None
    return document


def test_a_narrowed_acl_ends_its_flows_and_no_others(pair: tuple[Host, Host]) -> None:
    one, two = pair
    load(two, narrowed("22, 80"), "two")
    server = two.start("python3", "-c", SERVE)
    assert server.stdout is not None
    assert server.stdout.readline() == "up\n"
    flows = ["10.8.0.2/22", "10.8.0.2/80", "fd00:8::2/22", "fd00:8::2/80"]
    holder = subprocess.Popen(
        one.command("python3", "-c", HOLD, *flows), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"

        def alive(*wanted: bool) -> bool:
            assert holder.stdin is not None
            assert holder.stdout is not None
            holder.stdin.write(f"{json.dumps(wanted)}\n")
            holder.stdin.flush()
            found = holder.stdout.readline()
            assert found == f"{list(wanted)}\n"
            return True

        assert alive(True, True, True, True)
        load(two, narrowed("80"), "two")
        assert alive(False, True, False, True)
        assert alive(False, True, False, True), "the server's own retries bring nothing back"
    finally:
        holder.kill()
        holder.communicate()
        server.kill()
        server.communicate()


MEMBERS = ("one", "two", "three", "four")


def generated(chance: random.Random, *, gateway: bool) -> str:
    """A document of four members with rules by chance."""
    public = keys(*MEMBERS)
    lines = ["apiVersion: netctl/v1", "members:"]
    for name in MEMBERS:
        groups = chance.sample(["red", "blue"], chance.randrange(3))
        lines.append(f'  {name}: {{wireguard: "{public[name]}", groups: [{", ".join(groups)}]}}')
    lines += ["networks:", "  office:", "    mode: routed", "    ipv4: 10.8.0.0/24", "    ipv6: fd00:8::/64"]
    lines.append('    members: ["*"]')
    if gateway:
        lines.append("    topology: {hub: two}")
    where = (f'{name}: [10.8.0.{n}, "fd00:8::{n}"]' for n, name in enumerate(MEMBERS, 1))
    lines += [f"    addresses: {{{', '.join(where)}}}", "    acls:"]
    groups = [f"group:{g}" for g in ("red", "blue") if f"{g}" in "".join(lines[2:6])]
    who = ["*", *MEMBERS, *groups, "10.8.0.0/30", "fd00:8::/127", "fd00:8::2/127"]
    for number in range(chance.randrange(1, 8)):
        src, dst = (json.dumps(chance.sample(who, chance.randrange(1, 3))) for _ in range(2))
        proto = chance.choice(["tcp", "udp", "icmp", None])
        line = f"name: r{number}, src: {src}, dst: {dst}" + (f", proto: {proto}" if proto else "")
        if proto in ("tcp", "udp") and chance.random() < 0.8:
            first = chance.randrange(20, 40)
            line += f', ports: [{chance.randrange(20, 40)}, "{first}-{first + chance.randrange(1, 6)}"]'
        lines.append(f"      - {{{line}}}")
    return "\n".join(lines) + "\n"


def published(chance: random.Random) -> str:
    """Ports of this host that go elsewhere: to a container, as Docker publishes them, or to another port here."""
    ports = chance.sample(range(18, 48), 12)
    rules = []
    for number, port in enumerate(ports):
        proto, other = chance.choice(["tcp", "udp"]), chance.randrange(18, 48)
        for family, container in (("ip", "172.17.0.9"), ("ip6", "[fd17::9]")):
            to = f"dnat {family} to {container}:{other}" if number % 3 else f"redirect to :{other}"
            rules.append(
                f"meta nfproto ipv{4 if family == 'ip' else 6} {proto} dport {port} fib daddr type local {to}"
            )
    return f"table inet docker {{ chain pre {{ type nat hook prerouting priority -100; {'; '.join(rules)}; }}; }}"


def by_family(document: Document, packet: list[Any]) -> bool:
    """What the document says to this packet: members by address, selectors of its family."""
    src, dst, proto, port = packet
    network = document.networks["office"]
    named = {str(a): name for name, found in network.addresses.items() for a in found}
    version = 6 if ":" in src else 4
    evaluator = Evaluator(document, network)
    return evaluator.decide_packet(named[src], named[dst], proto, port, version).allowed


@pytest.mark.parametrize("seed", range(MORE))
def test_the_evaluator_and_the_ruleset_agree_on_every_packet(pair: tuple[Host, Host], seed: int) -> None:
    one, two = pair
    chance = random.Random(seed)
    hub, nat = seed % 2 == 1, seed % 3 > 0
    text = generated(chance, gateway=hub)
    document = load_document(text).document
    assert document is not None, text
    two.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.nctl0.rp_filter=0")
    forwards = int(hub or nat)
    two.run("sysctl", "-qw", f"net.ipv4.ip_forward={forwards}", f"net.ipv6.conf.all.forwarding={forwards}")
    load(two, document, "two")
    two.run("nft", "-f", "-", text=WITNESS)
    if nat:
        two.run("ip", "link", "add", "docker0", "up", "type", "veth", "peer", "veth1")
        two.run("ip", "link", "set", "veth1", "up")
        for address in ("172.17.0.1/16", "fd17::1/64"):
            two.run("ip", "address", "add", address, "dev", "docker0", *(["nodad"] if ":" in address else []))
        two.run("nft", "-f", "-", text=published(chance))
    packets: list[list[Any]] = []
    for _ in range(PACKETS):
        base = chance.choice(["10.8.0.", "fd00:8::"])
        target = chance.choice([2, 2, 3, 4] if hub else [2])
        source = chance.choice([n for n in (1, 3, 4) if n != target])
        port = chance.randrange(18, 48)
        proto = chance.choice(["tcp", "udp", "icmp"])
        packets.append([f"{base}{source}", f"{base}{target}", proto, port])
    mac = json.loads(two.run("ip", "-j", "link", "show", "nctl0"))[0]["address"].replace(":", "")
    sender = ["sh", "-c", 'exec "$0" -c "$1" "$2"', "python3", SEND, mac]
    assert one.run(*sender, text=json.dumps(packets)).strip() == "sent"
    seen: set[int] = set()
    wanted = {number for number, packet in enumerate(packets) if by_family(document, packet)}

    def all_came() -> bool:
        for name in ("seen", "pings"):
            listed = json.loads(two.run("nft", "-j", "list", "set", "inet", "witness", name))["nftables"]
            (found,) = [item["set"] for item in listed if "set" in item]
            seen.update(element - 10000 for element in found.get("elem", []))
        return wanted <= seen

    with contextlib.suppress(AssertionError):  # below it is said what is missing
        wait_for("what is let through has come", all_came)
    all_came()
    differ = [(packets[n], n in seen) for n in sorted(seen ^ wanted)]
    assert not differ, f"seed {seed}: packet, arrived: {differ}\n{text}"
