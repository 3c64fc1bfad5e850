"""Forged frames into a segment, on the wire: each is dropped and counted, the same frame unforged comes in."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address

import pytest

from netctl.engine.filter.nftables import plain_table
from netctl.model.hoststate import FilterTable, SourceBinding
from tests.support.hosts import Host, join, needs_namespaces
from tests.support.patience import wait_for

pytestmark = [pytest.mark.netns, needs_namespaces]

VNI, IPX, OTHER = 77, 0x8137, 0x88B5
THEIRS, MINE = ip_address("fd00:1::1"), ip_address("fd00:1::2")
MAC, FORGED_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000009")
IP4, FORGED4 = ip_address("10.9.0.1").packed, ip_address("10.9.0.9").packed
IP6, FORGED6 = ip_address("fd00:9::1").packed, ip_address("fd00:9::9").packed
BINDING = SourceBinding(
    "nseg0", THEIRS, "02:00:00:00:00:01", frozenset({ip_address(IP4), ip_address(IP6)}), VNI, (IPX,)
)
LOAD = (
    "import sys, json\nfrom pathlib import Path\nfrom netctl.engine.filter.nftables import Nftables, table_of\n"
    "Nftables(Path('/run/record')).set(table_of(json.load(sys.stdin)))"
)
SEND = (
    "import socket, sys\ns = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\ns.bind(('nctl0', 0))\n"
    "for line in sys.stdin: s.send(bytes.fromhex(line))"
)


def checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF or 0xFFFF


def datagram(frame: bytes) -> bytes:
    """The UDP datagram that carries a frame (RFC 7348 §5)."""
    body = struct.pack("!II", 0x08000000, VNI << 8) + frame
    head = struct.pack("!HHHH", 50000, 4789, 8 + len(body), 0)
    pseudo = THEIRS.packed + MINE.packed + struct.pack("!II", 8 + len(body), 17)
    return head[:6] + struct.pack("!H", checksum(pseudo + head + body)) + body


def whole(frame: bytes) -> list[bytes]:
    udp = datagram(frame)
    return [struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + THEIRS.packed + MINE.packed + udp]


def in_parts(frame: bytes) -> list[bytes]:
    """As two fragments (RFC 8200 §4.5)."""
    udp, cut = datagram(frame), 48
    made = []
    for offset, part in ((0, udp[:cut]), (cut, udp[cut:])):
        extra = struct.pack("!BBHI", 17, 0, offset | (offset == 0), 4711)
        size = len(extra) + len(part)
        made.append(struct.pack("!IHBB", 6 << 28, size, 44, 64) + THEIRS.packed + MINE.packed + extra + part)
    return made


def ethernet(kind: int, body: bytes, mac: bytes = MAC) -> bytes:
    return b"\xff" * 6 + mac + struct.pack("!H", kind) + body


def ipv4(source: bytes) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 60, 1, 0, 64, 253, 0) + source + b"\xff" * 4
    return ethernet(0x0800, head + bytes(40))


def arp(mac: bytes, sender: bytes) -> bytes:
    return ethernet(0x0806, struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + sender + bytes(10) + bytes(20))


def ipv6(source: bytes, body: bytes = bytes(40), following: int = 253) -> bytes:
    target = IPv6Address("ff02::1").packed
    return ethernet(0x86DD, struct.pack("!IHBB", 6 << 28, len(body), following, 255) + source + target + body)


def advert(target: bytes, mac: bytes) -> bytes:
    return ipv6(IP6, struct.pack("!BBHI", 136, 0, 0, 0) + target + b"\x02\x01" + mac, 58)


GOOD = {
    "IPX": ethernet(IPX, bytes(50)),
    "IPv4": ipv4(IP4),
    "IPv6": ipv6(IP6),
    "ARP": arp(MAC, IP4),
    "ND": advert(IP6, MAC),
}
FORGED = {
    "inner MAC": ("forged MAC", ethernet(IPX, bytes(50), FORGED_MAC)),
    "IPv4": ("forged IPv4", ipv4(FORGED4)),
    "IPv6": ("forged IPv6", ipv6(FORGED6)),
    "ARP sender": ("forged ARP", arp(MAC, FORGED4)),
    "ARP sender MAC": ("forged ARP", arp(FORGED_MAC, IP4)),
    "ND target": ("forged ND", advert(FORGED6, MAC)),
    "ND option": ("forged ND", advert(IP6, FORGED_MAC)),
    "ethertype": ("ethertype", ethernet(OTHER, bytes(50))),
}


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Host, Host]]:
    one, two = Host("one"), Host("two")
    try:
        join(one, two, f"{THEIRS}/64", f"{MINE}/64", "nctl0")
        two.run("ip", "addr", "del", f"{MINE}/64", "dev", "nctl0")
        two.run("ip", "addr", "add", f"{MINE}/64", "dev", "nctl0", "nodad")
        vxlan = f"type vxlan id {VNI} local {MINE} dev nctl0 dstport 4789 nolearning"
        two.run("ip", "link", "add", "nseg0", *vxlan.split())
        two.run("ip", "link", "set", "nseg0", "up")
        table = FilterTable(frozenset({"nctl0", "nseg0"}), (), frozenset({BINDING}))
        load = ("sh", "-c", 'exec "$0" -c "$1"', sys.executable, LOAD)
        two.run(*load, text=json.dumps(plain_table(table)))
        yield one, two
    finally:
        one.close()
        two.close()


def send(one: Host, two: Host, packets: list[bytes]) -> None:
    mac = json.loads(two.run("ip", "-j", "link", "show", "nctl0"))[0]["address"].replace(":", "")
    head = bytes.fromhex(mac) + bytes(6) + b"\x86\xdd"
    lines = "".join((head + packet).hex() + "\n" for packet in packets)
    one.run("sh", "-c", 'exec python3 -c "$0"', SEND, text=lines)


def came_in(two: Host) -> int:
    """Frames that came out of the segment device."""
    return int(json.loads(two.run("ip", "-s", "-j", "link", "show", "nseg0"))[0]["stats64"]["rx"]["packets"])


def dropped(two: Host, why: str) -> int:
    """What the counters of this kind say."""
    listed = json.loads(two.run("nft", "-j", "list", "table", "inet", "netctl"))["nftables"]
    rules = [item["rule"] for item in listed if item.get("rule", {}).get("comment") == why]
    return sum(e["counter"]["packets"] for rule in rules for e in rule["expr"] if "counter" in e)


@pytest.mark.parametrize("name", GOOD)
def test_a_good_frame_comes_in(pair: tuple[Host, Host], name: str) -> None:
    one, two = pair
    before = came_in(two)
    send(one, two, whole(GOOD[name]))
    wait_for("it comes in", lambda: came_in(two) > before)
    assert came_in(two) == before + 1


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_frame_is_dropped_and_counted(pair: tuple[Host, Host], name: str) -> None:
    one, two = pair
    why, frame = FORGED[name]
    before, counted = came_in(two), dropped(two, why)
    send(one, two, whole(frame))
    wait_for("it is dropped", lambda: dropped(two, why) > counted)
    assert dropped(two, why) == counted + 1
    assert came_in(two) == before


def test_outer_fragments_are_dropped_and_counted(pair: tuple[Host, Host]) -> None:
    one, two = pair
    before, counted = came_in(two), dropped(two, "outer fragment")
    send(one, two, in_parts(GOOD["IPX"]))
    wait_for("both are dropped", lambda: dropped(two, "outer fragment") >= counted + 2)
    assert dropped(two, "outer fragment") == counted + 2
    assert came_in(two) == before
