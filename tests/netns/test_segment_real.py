"""A segment of three members with real tunnels: what one of them sends under another's name does not arrive.

Every forged frame goes out between two good ones, back to back: a good one opens no way for what follows it.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address

import pytest

from netctl.config.resolve.resolution import link_local
from netctl.model.derive import network_id, segment_name
from tests.netns.netkit import Members, internet, members, pings
from tests.support.hosts import Host, needs_namespaces
from tests.support.patience import BUSY_S

pytestmark = [pytest.mark.netns, needs_namespaces]

SEGMENT = segment_name(network_id("", "party"))
NAMES = ("one", "two", "three")
IP4 = {name: ip_address(f"10.9.0.{n}").packed for n, name in enumerate(NAMES, 1)}
IP6 = {name: ip_address(f"fd00:9::{n}").packed for n, name in enumerate(NAMES, 1)}
ALL4, ALL6, NONE4, NONE6 = b"\xff" * 4, IPv6Address("ff02::1").packed, bytes(4), bytes(16)
STRANGER4, STRANGER6 = ip_address("10.9.0.77").packed, ip_address("fd00:9::77").packed
IPX, ARP, V4, V6, TAG, SERVICE_TAG = 0x8137, 0x0806, 0x0800, 0x86DD, 0x8100, 0x88A8
MARK, ALL_MACS = b"netctl-test-", b"\xff" * 6
LISTEN = """
import json, socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); s.bind((sys.argv[1], 0))
mark, last, found = bytes.fromhex(sys.argv[2]), int(sys.argv[3]), []
s.settimeout(120)
print('up', flush=True)
try:
    while last not in found:
        data, about = s.recvfrom(65535)
        if about[2] != socket.PACKET_OUTGOING and mark in data:
            found.append(int(data[data.rindex(mark) + len(mark):][:4]))
except TimeoutError: pass
print(json.dumps(found))
"""
SEND = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind((sys.argv[1], 0))
for line in sys.stdin: s.send(bytes.fromhex(line))
"""


def checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF or 0xFFFF


def ethernet(mac: bytes, kind: int, body: bytes) -> bytes:
    return ALL_MACS + mac + struct.pack("!H", kind) + body


def ipv4(source: bytes, flags: int = 0) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 60, 7, flags, 64, 253, 0) + source + ALL4
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + bytes(40)


def arp(operation: int, mac: bytes, sender: bytes, target: bytes = ALL4) -> bytes:
    return struct.pack("!HHBBH", 1, V4, 6, 4, operation) + mac + sender + bytes(6) + target + bytes(18)


def ipv6(source: bytes, following: int, body: bytes, target: bytes = ALL6) -> bytes:
    return struct.pack("!IHBB", 6 << 28, len(body), following, 255) + source + target + body


def icmp(source: bytes, kind: int, rest: bytes, before: bytes = b"", first: int = 58) -> bytes:
    """An ICMPv6 message; `before`: extension headers, of which the first is of type `first`."""
    body = struct.pack("!BBH", kind, 0, 0) + rest
    pseudo = source + ALL6 + struct.pack("!II", len(body), 58)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    return ipv6(source, first, before + body)


def option(kind: int, mac: bytes) -> bytes:
    return bytes([kind, 1]) + mac


SOLICIT, ADVERT, ROUTER_SOLICIT, ROUTER_ADVERT, REDIRECT, REPORT = 135, 136, 133, 134, 137, 143
OVERRIDE = struct.pack("!I", 0x20000000)
PADDED = bytes([58, 0, 1, 4, 0, 0, 0, 0])
"""An extension header of eight bytes, of options that say nothing, before ICMPv6."""
NONCE = bytes([14, 1]) + b"nonces"


def frames(mac: dict[str, bytes]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What `one` may send, and what it may not."""
    me, other = mac["one"], mac["three"]
    mine4, theirs4, mine6, theirs6 = IP4["one"], IP4["three"], IP6["one"], IP6["three"]
    local = {name: link_local(mac[name].hex(":")).packed for name in NAMES}
    tag = struct.pack("!HH", 0, ARP)
    bodies: dict[str, tuple[bytes, int, bytes]] = {
        "IPX": (me, IPX, bytes(50)),
        "IPv4 broadcast": (me, V4, ipv4(mine4)),
        "IPv4 before it has an address": (me, V4, ipv4(NONE4)),
        "IPv4 fragment": (me, V4, ipv4(mine4, 0x2000)),
        "IPv6 multicast": (me, V6, ipv6(mine6, 253, bytes(40))),
        "IPv6 fragment": (me, V6, ipv6(mine6, 44, struct.pack("!BBHI", 17, 0, 1, 9) + bytes(40))),
        "IPv6 link-local": (me, V6, ipv6(local["one"], 253, bytes(40))),
        "ARP request": (me, ARP, arp(1, me, mine4)),
        "ARP reply": (me, ARP, arp(2, me, mine4)),
        "ARP probe": (me, ARP, arp(1, me, NONE4, mine4)),
        "ND solicit": (me, V6, icmp(mine6, SOLICIT, bytes(4) + theirs6 + option(1, me))),
        "ND solicit without options": (me, V6, icmp(mine6, SOLICIT, bytes(4) + theirs6)),
        "ND solicit for itself, with a nonce": (me, V6, icmp(NONE6, SOLICIT, bytes(4) + mine6 + NONCE)),
        "ND advert": (me, V6, icmp(mine6, ADVERT, OVERRIDE + mine6 + option(2, me))),
        "ND advert of a link-local": (
            me,
            V6,
            icmp(local["one"], ADVERT, OVERRIDE + local["one"] + option(2, me)),
        ),
        "ND advert without options": (me, V6, icmp(mine6, ADVERT, OVERRIDE + mine6)),
        "router solicit": (me, V6, icmp(local["one"], ROUTER_SOLICIT, bytes(4) + option(1, me))),
        "MLD report": (me, V6, icmp(local["one"], REPORT, bytes(4), PADDED, 0)),
    }
    forged: dict[str, tuple[bytes, int, bytes]] = {
        "MAC of IPX": (other, IPX, bytes(50)),
        "MAC of IPv4": (other, V4, ipv4(mine4)),
        "MAC of ARP": (other, ARP, arp(1, me, mine4)),
        "IPv4 of a member": (me, V4, ipv4(theirs4)),
        "IPv4 of a stranger": (me, V4, ipv4(STRANGER4)),
        "IPv4 of a member, fragment": (me, V4, ipv4(theirs4, 0x2000)),
        "IPv4 of a member, later fragment": (me, V4, ipv4(theirs4, 0x0008)),
        "IPv6 of a member": (me, V6, ipv6(theirs6, 253, bytes(40))),
        "IPv6 of a stranger": (me, V6, ipv6(STRANGER6, 253, bytes(40))),
        "IPv6 of a member, fragment": (
            me,
            V6,
            ipv6(theirs6, 44, struct.pack("!BBHI", 253, 0, 1, 9) + bytes(40)),
        ),
        "IPv6 link-local of a member": (me, V6, ipv6(local["three"], 253, bytes(40))),
        "ARP request, address": (me, ARP, arp(1, me, theirs4)),
        "ARP request, MAC": (me, ARP, arp(1, other, mine4)),
        "ARP reply, address": (me, ARP, arp(2, me, theirs4)),
        "ARP reply, MAC": (me, ARP, arp(2, other, mine4)),
        "ND solicit, source": (me, V6, icmp(theirs6, SOLICIT, bytes(4) + mine6 + option(1, me))),
        "ND solicit, option": (me, V6, icmp(mine6, SOLICIT, bytes(4) + theirs6 + option(1, other))),
        "ND solicit, second option": (
            me,
            V6,
            icmp(mine6, SOLICIT, bytes(4) + theirs6 + NONCE + option(1, other)),
        ),
        "ND advert, target": (me, V6, icmp(mine6, ADVERT, OVERRIDE + theirs6 + option(2, me))),
        "ND advert, target, without options": (me, V6, icmp(mine6, ADVERT, OVERRIDE + theirs6)),
        "ND advert, option": (me, V6, icmp(mine6, ADVERT, OVERRIDE + mine6 + option(2, other))),
        "ND advert, second option": (
            me,
            V6,
            icmp(mine6, ADVERT, OVERRIDE + mine6 + NONCE + option(2, other)),
        ),
        "ND advert, target, behind options": (
            me,
            V6,
            icmp(mine6, ADVERT, OVERRIDE + theirs6 + option(2, me), PADDED, 60),
        ),
        "ND advert, target, behind hop-by-hop options": (
            me,
            V6,
            icmp(mine6, ADVERT, OVERRIDE + theirs6 + option(2, me), PADDED, 0),
        ),
        "ND advert, target, in a fragment": (
            me,
            V6,
            icmp(
                mine6,
                ADVERT,
                OVERRIDE + theirs6 + option(2, me),
                struct.pack("!BBHI", 58, 0, 0, 9),
                44,
            ),
        ),
        "ND advert, target, behind options in a fragment": (
            me,
            V6,
            icmp(
                mine6,
                ADVERT,
                OVERRIDE + theirs6 + option(2, me),
                struct.pack("!BBHI", 60, 0, 0, 9) + PADDED,
                44,
            ),
        ),
        "router advert": (
            me,
            V6,
            icmp(local["one"], ROUTER_ADVERT, struct.pack("!BBHII", 64, 0, 1800, 0, 0) + option(1, me)),
        ),
        "redirect": (me, V6, icmp(local["one"], REDIRECT, bytes(4) + theirs6 + theirs6)),
        "ARP in a VLAN of number 0": (me, TAG, tag + arp(2, me, theirs4)),
        "IPv4 in a VLAN of number 0": (me, TAG, struct.pack("!HH", 0, V4) + ipv4(theirs4)),
        "ARP in a service VLAN of number 0": (me, SERVICE_TAG, tag + arp(2, me, theirs4)),
    }
    return (
        {name: ethernet(*body) for name, body in bodies.items()},
        {name: ethernet(*body) for name, body in forged.items()},
    )


def document(there: Members, more: str = "") -> str:
    addresses = ", ".join(f'{name}: [10.9.0.{n}, "fd00:9::{n}"]' for n, name in enumerate(NAMES, 1))
    network = (
        f'  party: {{mode: lan, ipv4: 10.9.0.0/24, ipv6: "fd00:9::/64", members: ["*"], '
        f"addresses: {{{addresses}}}{more}}}\n"
    )
    return there.document({name: there.endpoint(name) for name in NAMES}, network)


@pytest.fixture(scope="module")
def party() -> Iterator[Members]:
    with members(*NAMES) as there:
        internet(there, *NAMES)
        there.apply(document(there))
        for name in NAMES[1:]:
            assert pings(there["one"], f"10.9.0.{NAMES.index(name) + 1}")
        yield there


def macs(there: Members) -> dict[str, bytes]:
    shown = {name: json.loads(there[name].run("ip", "-j", "link", "show", SEGMENT))[0] for name in NAMES}
    return {name: bytes.fromhex(link["address"].replace(":", "")) for name, link in shown.items()}


def arriving(source: Host, target: Host, sent: list[bytes], to: bytes = ALL_MACS) -> list[int]:
    """Which of these frames, sent to this MAC, come out of the segment there. Each carries its number behind it."""
    last = str(len(sent) - 1)
    listener = target.start(sys.executable, "-c", LISTEN, SEGMENT, MARK.hex(), last)
    assert listener.stdout is not None
    assert listener.stdout.readline() == "up\n"
    lines = "".join((to + frame[6:] + MARK + b"%04d" % n).hex() + "\n" for n, frame in enumerate(sent))
    source.run("sh", "-c", 'exec "$0" -c "$1" "$2"', sys.executable, SEND, SEGMENT, text=lines)
    found: list[int] = json.loads(listener.communicate(timeout=BUSY_S)[0])
    return found


def dropped(host: Host) -> dict[str, int]:
    """What the counters say, by kind."""
    counts: dict[str, int] = {}
    listed = json.loads(host.run("nft", "-j", "list", "table", "inet", "netctl"))["nftables"]
    for rule in (item["rule"] for item in listed if "rule" in item):
        for expression in rule["expr"]:
            if "counter" in expression and "comment" in rule:
                packets = expression["counter"]["packets"]
                counts[rule["comment"]] = counts.get(rule["comment"], 0) + packets
    return counts


def test_all_that_a_member_may_send_arrives(party: Members) -> None:
    good, _ = frames(macs(party))
    for name in NAMES[1:]:
        for to in (ALL_MACS, macs(party)[name]):
            found = arriving(party["one"], party[name], list(good.values()), to)
            missing = [what for n, what in enumerate(good) if n not in found]
            assert not missing, f"at {name}, to {to.hex(':')}"


@pytest.mark.parametrize("everybody", [True, False], ids=["to-all", "to-one"])
def test_no_forged_frame_arrives_between_good_ones(party: Members, everybody: bool) -> None:
    good, forged = frames(macs(party))
    before = dropped(party["two"])
    honest = good["ARP request"]
    sent = [frame for bad in forged.values() for frame in (honest, bad)] + [honest]
    found = arriving(party["one"], party["two"], sent, ALL_MACS if everybody else macs(party)["two"])
    arrived = [what for n, what in enumerate(forged) if 2 * n + 1 in found]
    assert not arrived
    assert found == list(range(0, len(sent), 2)), "the good ones, in order"
    after = dropped(party["two"])
    assert sum(after.values()) - sum(before.values()) >= len(forged), "each is counted"


def test_no_forged_frame_changes_what_the_others_know(party: Members) -> None:
    """The tables of neighbours of `two` keep the MAC of `three`, whatever `one` says."""
    good, forged = frames(macs(party))
    two, three = party["two"], macs(party)["three"].hex(":")
    for address in ("10.9.0.3", "fd00:9::3"):
        two.run("ip", "neigh", "replace", address, "lladdr", three, "dev", SEGMENT, "nud", "stale")
    for to in (ALL_MACS, macs(party)["two"]):
        arriving(party["one"], two, [*forged.values(), good["ARP request"]], to)
    for address in ("10.9.0.3", "fd00:9::3"):
        assert three in two.run("ip", "neigh", "show", address, "dev", SEGMENT)
    assert "default" not in two.run("ip", "-6", "route"), "no router has made itself one"
