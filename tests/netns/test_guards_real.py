"""What belongs to our links alone, tried with real packets by a stranger on a member's Ethernet.

one ── internet ── gate ─┬─ Ethernet: stranger (no member), 192.168.50.0/24, fd50::/64
                         └─ LAN: nas, 192.168.77.0/24, fd77::/64 (the gateway's `routes`, in routed mode)
       container ────────┘   a network namespace on gate, behind the host's own NAT
"""

from __future__ import annotations

import json
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network

import pytest

from netctl.config import load_document
from netctl.model import derive
from netctl.model.keys import WireGuardKey
from tests.netns.forgekit import SPOOF, packet
from tests.netns.netkit import Members, answered, call, internet, members, pings, serving
from tests.support.hosts import Host, Program, join, needs_namespaces
from tests.support.patience import BUSY_S, wait_for

pytestmark = [pytest.mark.netns, needs_namespaces]

ONE = {4: "10.8.0.1", 6: "fd00:8::1"}
GATE = {4: "10.8.0.2", 6: "fd00:8::2"}
STRANGER = {4: "192.168.50.9", 6: "fd50::9"}
GATE_ETHERNET = {4: "192.168.50.1", 6: "fd50::1"}
NAS = {4: "192.168.77.9", 6: "fd77::9"}
GATE_LAN = {4: "192.168.77.1", 6: "fd77::1"}
CONTAINER = {4: "172.17.0.2", 6: "fd17::2"}
BRIDGE = {4: "172.17.0.1", 6: "fd17::1"}
POOL = {4: "10.8.0.0/24", 6: "fd00:8::/64"}
LENGTH = {4: 24, 6: 64}
VNI_OF_OTHERS = 4242
FAMILIES = (4, 6)

SEND = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((sys.argv[1], 0))
for line in sys.stdin: s.send(bytes.fromhex(line))
"""
EAR = """
import json, signal, socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)); s.settimeout(0.2)
s.bind((sys.argv[1], 0))
found, over = [], []
signal.signal(signal.SIGTERM, lambda *_: over.append(1))
print('up', flush=True)
while 'last' not in found:
    try: data, about = s.recvfrom(65535)
    except TimeoutError:
        if over: break
        continue
    if b'spoof:' in data and (len(sys.argv) < 3 or data[0] >> 4 == int(sys.argv[2])):
        found.append(data[data.rindex(b'spoof:') + 6:].rstrip(b'.').decode())
print(json.dumps(found))
"""
"""Until `last`, or until it is told (SIGTERM) that nothing more will be sent."""
ON_THE_WAY_S = 2.5
"""What comes later than this after it was sent is not waited for."""
DATAGRAM = """
import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
if len(sys.argv) > 4: s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, sys.argv[4].encode())
target = socket.getaddrinfo(sys.argv[1], int(sys.argv[2]), family, socket.SOCK_DGRAM)[0][4]
try: s.sendto(bytes.fromhex(sys.argv[3]), target)
except OSError as error: print('no:', error)
"""


HOST_RULES = """
table inet host {
  chain post {
    type nat hook postrouting priority 100;
    ip saddr 172.17.0.0/24 oifname != docker0 masquerade
    ip6 saddr fd17::/64 oifname != docker0 masquerade
    ct status dnat oifname nctl0 masquerade
  }
  chain pre {
    type nat hook prerouting priority -100;
    iifname ether0 tcp dport 8080 dnat ip to 10.8.0.1:80
    iifname ether0 tcp dport 8080 dnat ip6 to [fd00:8::1]:80
  }
}
"""
"""What an administrator writes, or Docker for containers: their packets become the host's own."""


def cable(one: Host, other: Host, link: str, mine: dict[int, str], theirs: dict[int, str]) -> None:
    join(one, other, f"{mine[4]}/24", f"{theirs[4]}/24", link)
    for host, address in ((one, mine[6]), (other, theirs[6])):
        host.run("ip", "addr", "add", f"{address}/64", "dev", link, "nodad")


@contextmanager
def picture(mode: str, rp_filter: int = 0, *more: str) -> Iterator[Members]:
    """The hosts of the picture, with the document applied to the members."""
    with members("one", "gate") as there:
        internet(there, "one", "gate")
        gate = there["gate"]
        gate.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for which in ("all", "default"):
            gate.run("sysctl", "-qw", f"net.ipv4.conf.{which}.rp_filter={rp_filter}")
        for name, link, mine, theirs in (
            ("stranger", "ether0", GATE_ETHERNET, STRANGER),
            ("nas", "lan0", GATE_LAN, NAS),
            ("container", "docker0", BRIDGE, CONTAINER),
        ):
            host = there.add(name)
            cable(gate, host, link, mine, theirs)
            for version, way in ((4, "default"), (6, "default")):
                host.run("ip", f"-{version}", "route", "add", way, "via", mine[version])
        there.apply(document(there, mode, *more))
        for version in FAMILIES:
            assert pings(there["one"], GATE[version])
        yield there


def document(there: Members, mode: str, *more: str) -> str:
    addresses = ", ".join(f'{name}: ["{at[4]}", "{at[6]}"]' for name, at in (("one", ONE), ("gate", GATE)))
    pools = f'    mode: {mode}\n    ipv4: {POOL[4]}\n    ipv6: "{POOL[6]}"\n'
    lines = [*more, 'members: ["*"]', f"addresses: {{{addresses}}}"]
    said = {name: there.endpoint(name) for name in there.public}
    if mode == "routed":
        said["gate"] += f', routes: [{ip_network("192.168.77.0/24")}, "fd77::/64"]'
    return there.document(said, "  office:\n" + pools + "".join(f"    {line}\n" for line in lines))


def mac(host: Host, link: str) -> bytes:
    said = json.loads(host.run("ip", "-j", "link", "show", link))[0]["address"]
    return bytes.fromhex(said.replace(":", ""))


def frames(gate: Host, link: str, packets: list[bytes]) -> str:
    head = mac(gate, link) + bytes.fromhex("02000000aa01")
    kinds = {4: b"\x08\x00", 6: b"\x86\xdd"}
    return "".join((head + kinds[one[0] >> 4] + one).hex() + "\n" for one in packets)


def throw(sender: Host, gate: Host, link: str, packets: list[bytes]) -> None:
    """Put packets on the Ethernet between two hosts, for the second, past all that the first would check."""
    text = frames(gate, link, packets)
    sender.run("sh", "-c", 'exec "$0" -c "$1" "$2"', sys.executable, SEND, link, text=text)


def heard(sender: Host, gate: Host, link: str, packets: list[bytes], ear: Host, on: str) -> list[str]:
    """The marks of those packets that pass a link of some host, in or out."""
    listening = ear.start(sys.executable, "-c", EAR, on)
    assert listening.stdout is not None
    assert listening.stdout.readline() == "up\n"
    throw(sender, gate, link, packets)
    return all_heard(listening)


def all_heard(listening: Program) -> list[str]:
    """What an ear has heard, now that all is sent."""
    time.sleep(ON_THE_WAY_S)
    listening.terminate()
    found: list[str] = json.loads(listening.communicate(timeout=BUSY_S)[0])
    return found


def dropped(host: Host) -> Counter[str]:
    """What the counters say, by the word on the rule."""
    listed = json.loads(host.run("nft", "-j", "list", "table", "inet", "netctl"))["nftables"]
    found: Counter[str] = Counter()
    for rule in (item["rule"] for item in listed if "rule" in item):
        count = sum(e["counter"]["packets"] for e in rule["expr"] if "counter" in e)
        why = rule.get("comment", "")
        found[why] += count
    return found


def underlay(there: Members, name: str) -> str:
    return str(derive.underlay(WireGuardKey.parse(there.public[name])))


@pytest.mark.parametrize("rp_filter", [0, 1, 2])
@pytest.mark.parametrize("mode", ["lan", "routed"])
def test_a_stranger_on_the_ethernet(mode: str, rp_filter: int) -> None:
    """It reaches no overlay address, forges none, and nothing of it goes into the tunnel; members do not notice."""
    with picture(mode, rp_filter) as there:
        gate, one, stranger = there["gate"], there["one"], there["stranger"]
        for version in FAMILIES:
            assert pings(stranger, GATE_ETHERNET[version]), "the Ethernet is not cut"
            assert not pings(stranger, GATE[version], tries=1)
            assert not pings(stranger, ONE[version], tries=1)
            with serving(gate, GATE[version], 80):
                assert call(stranger, GATE[version], 80) is None
                assert answered(one, GATE[version], 80) == ONE[version]
                assert answered(gate, GATE[version], 80) == GATE[version], "over lo"
        # Forged: as members, as the underlay, as itself, as the gateway's LAN; to the gateway, and through it.
        inside, outside = [], []
        for version in FAMILIES:
            sources = [ONE[version], GATE[version], STRANGER[version], NAS[version], CONTAINER[version]]
            sources += [underlay(there, "one")] * (version == 6)
            for source in sources:
                inside += [packet(source, ONE[version], f"through as {source}")]
                outside += [
                    packet(source, to[version], f"to {to[version]} as {source}") for to in (NAS, CONTAINER)
                ]
        inside.append(packet(STRANGER[6], underlay(there, "one"), "underlay"))
        before = dropped(gate)
        assert heard(stranger, gate, "ether0", inside, gate, "nctl0") == []
        after = dropped(gate)
        reasons = [
            "overlay source from elsewhere",
            "overlay address from elsewhere",
            "forwarded into the tunnel",
        ]
        for why in [*reasons, "source from elsewhere"]:
            assert after[why] > before[why], why
        for ear, link, at in ((there["nas"], "lan0", NAS), (there["container"], "docker0", CONTAINER)):
            came = heard(stranger, gate, "ether0", outside, ear, link)
            forged = {ONE[4], ONE[6], GATE[4], GATE[6], underlay(there, "one")}
            assert [mark for mark in came if mark.split(" as ")[1] in forged] == []
            assert f"to {at[4]} as {STRANGER[4]}" in came, "the host's own forwarding is not cut"
        for version in FAMILIES:
            assert pings(one, GATE[version])
            assert pings(gate, ONE[version])


def test_nobody_forges_a_member_through_the_hub() -> None:
    """To a spoke as another, by the hub's Ethernet and, in the other direction, by the tunnel to that Ethernet."""
    three = {4: "10.8.0.3", 6: "fd00:8::3"}
    with picture("routed", 0, "topology: {hub: gate}") as there:
        gate, one, stranger = there["gate"], there["one"], there["stranger"]
        packets = [packet(three[v], ONE[v], f"as three {v}") for v in FAMILIES]
        packets += [packet(GATE[v], ONE[v], f"as the hub {v}") for v in FAMILIES]
        assert heard(stranger, gate, "ether0", packets, one, "nctl0") == []
        # A member towards the stranger: no rule lets it, as whoever it says it is.
        spoofed = [
            packet(source[v], STRANGER[v], f"out as {source[v]}")
            for v in FAMILIES
            for source in (ONE, three, NAS, GATE_ETHERNET)
        ]
        listening = stranger.start(sys.executable, "-c", EAR, "ether0")
        assert listening.stdout is not None
        assert listening.stdout.readline() == "up\n"
        lines = "".join(each.hex() + "\n" for each in spoofed)
        one.run("sh", "-c", 'exec "$0" -c "$1"', sys.executable, SPOOF, text=lines)
        assert all_heard(listening) == []


@pytest.mark.parametrize("rp_filter", [0, 1, 2])
def test_what_may_pass_passes(rp_filter: int) -> None:
    """A LAN of the gateway, a namespace behind the host's NAT, a port that the host forwards to a member."""
    with picture("routed", rp_filter) as there:
        gate, one, nas, container = there["gate"], there["one"], there["nas"], there["container"]
        for version in FAMILIES:
            assert pings(nas, ONE[version]), "the LAN begins"
            assert pings(one, NAS[version]), "the member begins"
            assert not pings(container, ONE[version], tries=1), "nobody has made its packets the host's own"
        gate.run("nft", "-f", "-", text=HOST_RULES)
        for version in FAMILIES:
            with serving(one, ONE[version], 80):
                assert answered(nas, ONE[version], 80) == NAS[version]
                assert answered(container, ONE[version], 80) == GATE[version]
                assert answered(there["stranger"], GATE_ETHERNET[version], 8080) == GATE[version]
                assert call(there["stranger"], ONE[version], 80) is None, "that was no word for strangers"
            with serving(gate, GATE[version], 80):
                assert answered(gate, GATE[version], 80) == GATE[version]
        # A container's addresses, from the Ethernet: nobody's NAT makes a member of that.
        forged = [packet(at[v], ONE[v], f"as {at[v]}") for v in FAMILIES for at in (CONTAINER, NAS)]
        assert heard(there["stranger"], gate, "ether0", forged, gate, "nctl0") == []


@pytest.mark.parametrize("mode", ["lan", "routed"])
def test_a_forged_packet_reaches_no_socket_of_the_host(mode: str) -> None:
    """A service on all addresses: what claims to be a member, or is sent to a broadcast address of the pool."""
    with picture(mode) as there:
        gate, one, stranger = there["gate"], there["one"], there["stranger"]
        listening = gate.start(sys.executable, "-c", LISTEN, "7070")
        assert listening.stdout is not None
        assert listening.stdout.readline() == "up\n"
        packets = []
        for version in FAMILIES:
            own = GATE_ETHERNET[version]
            packets += [udp(ONE[version], own, 7070, f"as a member {version}".encode())]
            packets += [udp(ONE[version], GATE[version], 7070, f"to us as a member {version}".encode())]
            packets += [udp(STRANGER[version], GATE[version], 7070, f"to us {version}".encode())]
            packets += [udp(STRANGER[version], own, 7070, f"fair {version}".encode())]
        packets += [
            udp(STRANGER[4], "10.8.0.255", 7070, b"broadcast"),
            udp(STRANGER[4], "10.8.0.0", 7070, b"old"),
        ]
        packets += [udp(STRANGER[6], "fd00:8::", 7070, b"anycast")]
        packets += [udp(underlay(there, "one"), GATE_ETHERNET[6], 7070, b"as the underlay")]
        packets += [udp(STRANGER[6], underlay(there, "gate"), 7070, b"to the underlay")]
        throw(stranger, gate, "ether0", packets)
        for version in FAMILIES:
            one.python(DATAGRAM, GATE[version], "7070", f"member {version}".encode().hex())
            assert pings(one, GATE[version]), "what went into the tunnel before it has come out"
        throw(stranger, gate, "ether0", [udp(STRANGER[4], GATE_ETHERNET[4], 7070, b"last")])
        found = json.loads(listening.communicate(timeout=BUSY_S)[0])
        assert sorted(found) == ["fair 4", "fair 6", "last", "member 4", "member 6"]


LISTEN = """
import json, socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(('::', int(sys.argv[1]))); s.settimeout(120)
found = []
print('up', flush=True)
try:
    while 'last' not in found: found.append(s.recv(2000).decode())
except TimeoutError: pass
print(json.dumps(found))
"""


def checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF or 0xFFFF


def udp(source: str, target: str, port: int, data: bytes, own_port: int = 40000) -> bytes:
    """A whole IP packet (RFC 768)."""
    one, other = ip_address(source).packed, ip_address(target).packed
    head = struct.pack("!HHHH", own_port, port, 8 + len(data), 0)
    pseudo = one + other + struct.pack("!II", 8 + len(data), 17)
    body = head[:6] + struct.pack("!H", checksum(pseudo + head + data)) + data
    if len(one) == 4:
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 9, 0, 64, 17, 0) + one + other
        return ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:] + body
    return struct.pack("!IHBB", 6 << 28, len(body), 17, 64) + one + other + body


def vxlan(vni: int, mark: str, source_mac: str) -> bytes:
    """The payload of a datagram with a broadcast frame in it (RFC 7348 §5)."""
    inner = udp(ONE[4], "255.255.255.255", 7070, b"spoof:" + mark.encode())
    frame = b"\xff" * 6 + bytes.fromhex(source_mac.replace(":", "")) + b"\x08\x00" + inner
    return struct.pack("!II", 0x08000000, vni << 8) + frame


def fragments(source: str, target: str, port: int, data: bytes) -> list[bytes]:
    """The same over IPv6 in two parts (RFC 8200 §4.5)."""
    whole = udp(source, target, port, data)
    made = []
    for offset, part in ((0, whole[40:88]), (48, whole[88:])):
        extra = struct.pack("!BBHI", 17, 0, offset | (offset == 0), 4711)
        made.append(struct.pack("!IHBB", 6 << 28, 8 + len(part), 44, 64) + whole[8:40] + extra + part)
    return made


def addresses(host: Host) -> list[tuple[str, str]]:
    """All addresses of a host, each with its link."""
    rows = json.loads(host.run("ip", "-j", "addr"))
    return [(one["local"], row["ifname"]) for row in rows for one in row["addr_info"]]


def test_a_segment_is_fed_by_the_tunnel_alone() -> None:
    """VXLAN to every address of a member, from the Ethernet, a container and the member itself: nothing comes out."""
    with picture("lan") as there:
        gate, one, stranger = there["gate"], there["one"], there["stranger"]
        network = load_document(document(there, "lan")).document.networks["office"]
        vni, segment = derive.vni(network.id), derive.segment_name(network.id)
        member = derive.mac(network.id, WireGuardKey.parse(there.public["one"]))
        # Frames of IPv4 are what it looks for: a frame of IPv6 may carry one, not yet taken out.
        listening = gate.start(sys.executable, "-c", EAR, segment, "4")
        assert listening.stdout is not None
        assert listening.stdout.readline() == "up\n"
        sent = 0
        for sender, link in ((stranger, "ether0"), (there["container"], "docker0"), (gate, "lo")):
            targets = [
                (at, on) for at, on in addresses(gate) if not at.startswith("fe80") or on in (link, segment)
            ]
            targets += [("ff02::1", link), ("255.255.255.255", link), ("10.8.0.255", link)]
            packets: list[bytes] = []
            for at, on in targets:
                data = vxlan(vni, f"{sender.name} to {at}", member)
                scope = ("%" + (segment if sender is gate and on == segment else link)) * at.startswith("f")
                scope *= at.startswith(("fe80", "ff02"))
                sender.python(DATAGRAM, at + scope, "4789", data.hex())
                packets.append(udp((STRANGER[6] if ":" in at else STRANGER[4]), at, 4789, data))
                sent += 1
            if sender is stranger:
                parts = fragments(STRANGER[6], GATE_ETHERNET[6], 4789, vxlan(vni, "in parts", member))
                throw(stranger, gate, link, [*packets, *parts])
        # By another member, in a frame of the segment: VXLAN in VXLAN.
        for at, on in addresses(gate):
            if at.startswith("fe80") and on == segment:
                one.python(DATAGRAM, f"{at}%{segment}", "4789", vxlan(vni, "inside", member).hex())
        # And as it should be.
        frame = vxlan(vni, "last", member)[8:]
        one.run("sh", "-c", 'exec "$0" -c "$1" "$2"', sys.executable, SEND, segment, text=frame.hex() + "\n")
        assert json.loads(listening.communicate(timeout=BUSY_S)[0]) == ["last"]
        assert dropped(gate)["segment from elsewhere"] > sent // 2


def test_the_port_of_segments_is_not_taken_from_others() -> None:
    """Another VXLAN of the host, with a number of its own, goes on: Docker's swarm has the same port."""
    with picture("lan") as there:
        gate, container = there["gate"], there["container"]
        for host, at, other in ((gate, BRIDGE[4], CONTAINER[4]), (container, CONTAINER[4], BRIDGE[4])):
            vx = ("type", "vxlan", "id", str(VNI_OF_OTHERS), "local", at, "remote", other, "dstport", "4789")
            host.run("ip", "link", "add", "swarm0", *vx)
            host.run("ip", "addr", "add", f"172.30.0.{1 if host is gate else 2}/24", "dev", "swarm0")
            host.run("ip", "link", "set", "swarm0", "up")
        assert pings(gate, "172.30.0.2")
        assert pings(container, "172.30.0.1")


@pytest.mark.parametrize("mode", ["lan", "routed"])
def test_no_tunnel_in_itself(mode: str) -> None:
    """A peer's endpoint inside the tunnel, as a hostile member would have it: one ping does not become thousands."""
    with picture(mode) as there:
        gate, one = there["gate"], there["one"]
        inside = [GATE[4], f"[{GATE[6]}]"]
        if mode == "lan":
            inside.append(f"[{underlay(there, 'gate')}]")
            inside += [
                f"[{at}%{on}]"
                for at, on in addresses(gate)
                if at.startswith("fe80") and on.startswith("nseg")
            ]
        for endpoint in inside:
            one.run("wg", "set", "nctl0", "peer", there.public["gate"], "endpoint", f"{endpoint}:51820")
            before, counted = carried(one), dropped(one)["tunnel in a tunnel"]
            # netctl-wg takes no such endpoint and stays with the old one; an engine that does runs into the filter.
            taken = f"{endpoint}:51820" in one.run("wg", "show", "nctl0", "endpoints")
            assert pings(one, GATE[4], "-s", "1000", tries=1 if taken else 10) != taken, endpoint
            assert carried(one) - before < LOOP, endpoint
            assert (dropped(one)["tunnel in a tunnel"] > counted) == taken, endpoint
        one.run(
            "wg", "set", "nctl0", "peer", there.public["gate"], "endpoint", f"{there.outside['gate']}:51820"
        )
        assert pings(one, GATE[4])
        # And at the other end, where the sender is no netctl: nothing on our links reaches WireGuard's port.
        for version in FAMILIES:
            counted = dropped(gate)["tunnel in a tunnel"]
            one.python(DATAGRAM, GATE[version], "51820", "00")
            assert pings(one, GATE[version]), "what went into the tunnel before it has come out"
            wait_for("it is dropped", lambda: dropped(gate)["tunnel in a tunnel"] > counted)  # noqa: B023
            assert dropped(gate)["tunnel in a tunnel"] == counted + 1


LOOP = 50
"""A ping, handshakes and a segment's chatter are less; a loop was seen to make a hundred thousand."""


def carried(host: Host) -> int:
    """Packets that went into the tunnel."""
    return int(json.loads(host.run("ip", "-s", "-j", "link", "show", "nctl0"))[0]["stats64"]["tx"]["packets"])
