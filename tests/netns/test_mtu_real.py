"""MTUs at every layer, on cables of 1,400 and 1,280 bytes: full-size TCP goes without one fragment, inside and out.

    one ── 1,500 ── router ── 1,400 or 1,280 ── two

`two` says an MTU that its cable carries: outside over IPv4 a tunnel costs 60 bytes, over IPv6 80. It is a multiple of
16: WireGuard pads to that as far as the sender's own MTU lets it, and `one` has 1,420.
"""

from __future__ import annotations

import pytest

from netctl.model.derive import network_id, segment_name
from tests.netns.driftkit import Member
from tests.netns.netkit import Members, fragments, link, members, pings, transfer
from tests.support.hosts import Host, join, needs_namespaces
from tests.support.patience import BUSY_S, wait_for

pytestmark = [pytest.mark.netns, needs_namespaces]

IPV4_TCP, IPV6_TCP, SEGMENT = 40, 60, 70
ENDS = {4: ("192.0.2.1", "198.51.100.2"), 6: ("2001:db8:1::1", "2001:db8:2::2")}
PARTY = segment_name(network_id("", "party"))
HEARD = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('', 7777)); s.settimeout(120); print('up', flush=True); print(len(s.recvfrom(65535)[0]))
"""
CRY = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
s.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO: whole or not at all
s.sendto(bytes(int(sys.argv[1])), ('10.9.0.255', 7777))
"""


def cables(there: Members, narrow: int) -> tuple[Host, Host, Host]:
    """The three hosts of the picture, with IPv4 and IPv6 outside."""
    one, router, two = (there.add(name) for name in ("one", "router", "two"))
    join(one, router, "192.0.2.1/24", "192.0.2.9/24")
    join(two, router, "198.51.100.2/24", "198.51.100.9/24", "eth1")
    router.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    for number, (host, device) in enumerate(((one, "eth0"), (two, "eth1")), 1):
        host.run("ip", "addr", "add", f"2001:db8:{number}::{number}/64", "dev", device, "nodad")
        router.run("ip", "addr", "add", f"2001:db8:{number}::9/64", "dev", device, "nodad")
        host.run("ip", "-6", "route", "add", "default", "via", f"2001:db8:{number}::9")
    one.run("ip", "route", "add", "default", "via", "192.0.2.9")
    two.run("ip", "route", "add", "default", "via", "198.51.100.9")
    for host in (two, router):
        host.run("ip", "link", "set", "eth1", "mtu", str(narrow))
    return one, router, two


def endpoints(outside: int) -> list[str]:
    return [
        f'endpoints: ["[{at}]:51820"]' if outside == 6 else f'endpoints: ["{at}:51820"]'
        for at in ENDS[outside]
    ]


def party(there: Members, outside: int, mtu: int | None, mode: str, *, ipv6: bool) -> str:
    """A document of one network in which `two` says this MTU."""
    first, second = endpoints(outside)
    pool = '"fd00:9::/64"' if ipv6 else "none"
    addresses = ", ".join(
        f'{name}: [10.9.0.{n}, "fd00:9::{n}"]' if ipv6 else f"{name}: 10.9.0.{n}"
        for n, name in enumerate(("one", "two"), 1)
    )
    network = (
        f"  party: {{mode: {mode}, ipv4: 10.9.0.0/24, ipv6: {pool}, "
        f'members: ["*"], addresses: {{{addresses}}}}}\n'
    )
    said = f"mtu: {mtu}, " if mtu is not None else ""
    return there.document({"one": first, "two": said + second}, network)


def broadcast(one: Host, two: Host, size: int) -> bool:
    """Whether a datagram of this size, header included, is heard through the segment, in one piece."""
    ear = two.start("python3", "-c", HEARD)
    assert ear.stdout is not None
    assert ear.stdout.readline() == "up\n"
    said = one.run("python3", "-c", CRY, str(size - 28), check=False)
    if said:
        assert "Message too long" in said, said
        ear.kill()
    return ear.communicate(timeout=BUSY_S)[0].strip() == str(size - 28)


@pytest.mark.parametrize(
    ("mode", "narrow", "outside", "mtu", "ipv6"),
    [
        ("routed", 1400, 4, 1328, True),
        ("routed", 1400, 6, 1312, True),
        ("routed", 1280, 4, 1216, False),
        ("routed", 1280, 6, 1200, False),
        ("lan", 1400, 4, 1328, False),
        ("lan", 1400, 6, 1312, False),
        ("lan", 1500, 4, None, True),
        ("lan", 1500, 6, None, True),
    ],
)
def test_full_size_tcp_without_a_fragment(
    mode: str, narrow: int, outside: int, mtu: int | None, ipv6: bool
) -> None:
    """Whatever fits: a tunnel has IPv6 inside from 1,280 bytes on, a segment needs 70 more for that."""
    with members("one", "two") as there:
        hosts = cables(there, narrow)
        one, _, two = hosts
        there.apply(party(there, outside, mtu, mode, ipv6=ipv6))
        targets = {"10.9.0.2": IPV4_TCP, "fd00:9::2": IPV6_TCP} if ipv6 else {"10.9.0.2": IPV4_TCP}
        assert all(pings(one, target) for target in targets)
        before = [fragments(host) for host in hosts]
        inside = mtu or 1420
        for target, headers in targets.items():
            assert transfer(one, two, target) == (inside - headers,) * 2
        if mode == "lan":
            assert link(two, PARTY)["mtu"] == inside - SEGMENT
            # The smaller of the two is the size of a segment; larger ones are for IP to cut.
            assert broadcast(two, one, inside - SEGMENT)
            assert not broadcast(two, one, inside - SEGMENT + 1)
        assert [fragments(host) for host in hosts] == before


@pytest.mark.parametrize("outside", [4, 6])
def test_a_cable_too_narrow_for_a_segment_cuts_the_outside_and_loses_nothing(outside: int) -> None:
    """A tunnel below 1,280 bytes cannot carry a segment, so on this cable its datagrams go in fragments."""
    with members("one", "two") as there:
        hosts = cables(there, 1280)
        one, _, two = hosts
        there.apply(party(there, outside, None, "lan", ipv6=True))
        assert pings(one, "10.9.0.2")
        assert transfer(one, two, "10.9.0.2") == (1420 - IPV4_TCP,) * 2
        assert transfer(one, two, "fd00:9::2") == (1420 - IPV6_TCP,) * 2
        assert broadcast(two, one, 1420 - SEGMENT)
        cut = sum(count for host in hosts for name, count in fragments(host).items() if "Frag" in name)
        assert cut > 100


def test_a_way_that_is_too_narrow_is_told_with_what_to_do() -> None:
    """`doctor` and `status` name the way, and what to write; with that written they are silent."""
    one = Member()
    try:
        one.host.run("ip", "link", "add", "eth0", "mtu", "1400", "type", "veth", "peer", "name", "far")
        for name in ("eth0", "far"):
            one.host.run("ip", "link", "set", name, "up")
        one.host.run("ip", "addr", "add", "192.0.2.1/24", "dev", "eth0")
        one.start_agent()
        one.netctl("apply")
        told = "the way to 192.0.2.2:51820 carries 1400 bytes: full packets of this host's tunnels (mtu 1420)"
        todo = "set `mtu: 1328` for 'one'; in 'party' a segment with IPv6 needs 1350: say `ipv6: none`"
        wait_for("status says it", lambda: told in one.netctl("status"))
        for command in ("status", "doctor"):
            said = " ".join(one.netctl(command).split())
            assert told in said
            assert todo in said
        narrower = one.text.replace("one: {", "one: {mtu: 1328, ").replace("lan,", "lan, ipv6: none,")
        one.write(narrower)
        one.netctl("apply")
        for command in ("status", "doctor"):
            wait_for(
                f"{command} is silent",
                lambda command=command: "go there in fragments" not in one.netctl(command),  # type: ignore[misc]
            )
        one.write(one.text.replace("one: {", "one: {mtu: 1328, "))
        assert "NC515" in one.netctl("apply", code=1)
    finally:
        one.close()
