"""IPv6 switched off on the host, before and after an apply; and a gateway that lives by router advertisements."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.netns.driftkit import SEGMENT, Member
from tests.support.hosts import Host, join, needs_namespaces
from tests.support.patience import wait_for

pytestmark = [pytest.mark.netns, needs_namespaces]

OFF = "for one in all default; do echo 1 > /proc/sys/net/ipv6/conf/$one/disable_ipv6; done"
DUAL = """
  dual: {mode: routed, ipv4: 10.7.0.0/24, ipv6: "fd77::/64", members: ["*"], addresses: {one: 10.7.0.1, two: 10.7.0.2}}
"""
ADVERTISE = """
import socket, struct
sender = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
there = ("ff02::1", 0, 0, socket.if_nametoindex("router"))
sender.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0), there)
"""
"""A router advertisement (RFC 4861 §4.2) with a life of half an hour; the kernel makes its checksum."""
RADVD = shutil.which("radvd")
RADVD_CONFIG = """interface eth0 {
    AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvDefaultLifetime 1800;
    prefix 2001:db8:1::/64 {};
};
"""
BEYOND = "2001:db8:ffff::1"
"""An address of the router that only its advertised default route leads to."""


@pytest.fixture
def member() -> Iterator[Member]:
    one = Member(DUAL)
    try:
        yield one
    finally:
        one.close()


def _off(member: Member, link: str) -> str:
    return member.host.run("cat", f"/proc/sys/net/ipv6/conf/{link}/disable_ipv6").strip()


def _addresses(member: Member, link: str) -> str:
    return member.host.run("ip", "-6", "-o", "addr", "show", "dev", link, "scope", "global")


def test_ipv6_that_is_switched_off_is_on_for_our_links_alone(member: Member) -> None:
    """Nothing of the document came up, IPv4 neither, and root was told to be root."""
    host = member.host
    host.run("sh", "-ec", f"ip link add mine type veth peer name theirs; {OFF}")
    member.start_agent("--drift-every", "1800")
    member.netctl("apply", "--yes")
    assert "fd77:" in _addresses(member, "nctl0")
    assert _addresses(member, SEGMENT) or "10.9.0.1" in host.run("ip", "-4", "addr", "show", "dev", SEGMENT)
    assert "no changes" in member.netctl("plan")
    assert [_off(member, link) for link in ("mine", "lo", "all", "default", "nctl0")] == ["1"] * 4 + ["0"]

    # Later too: the kernel takes addresses and routes of every link, and they come back.
    before = member.status()["routes_restored"]
    host.run("sh", "-ec", OFF)
    wait_for("IPv6 is back on our links", lambda: "no changes" in member.netctl("plan"))
    assert "fd77:" in _addresses(member, "nctl0")
    # Not by the look for drift, which is half an hour away.
    wait_for("it is counted", lambda: member.status()["routes_restored"] > before)
    assert _off(member, "mine") == "1"


def test_where_it_cannot_be_switched_on_ipv4_comes_up_alone(member: Member) -> None:
    """As in a container whose /proc/sys is read-only."""
    host = member.host
    host.run("sh", "-ec", f"{OFF}; mount --bind /proc/sys/net/ipv6 /proc/sys/net/ipv6")
    host.run("mount", "-o", "remount,ro,bind", "/proc/sys/net/ipv6")
    member.start_agent()
    said = member.netctl("apply", "--yes")
    state = member.status()
    assert "10.7.0.1" in host.run("ip", "-4", "addr", "show", "dev", "nctl0")
    assert "10.8.0.1" in host.run("ip", "-4", "addr", "show", "dev", "nctl0")
    text = " ".join([said, *state["conditions"]])
    assert "IPv4 alone: IPv6 is switched off on this host" in text
    assert "its segment travels over IPv6" in text
    assert "no permission" not in text


def test_a_gateway_keeps_the_default_route_that_a_router_advertises(member: Member) -> None:
    host = member.host
    host.run(
        "sh", "-ec", "ip link add wan type veth peer name router; ip link set wan up; ip link set router up"
    )
    wait_for("the links have addresses", lambda: host.run("ip", "-6", "addr").count("tentative") == 0)

    def advertised() -> bool:
        return "proto ra" in host.run("ip", "-6", "route", "show", "default", "dev", "wan")

    def advertise() -> bool:
        host.run("python3", "-c", ADVERTISE)
        return advertised()

    wait_for("the host has a default route by an advertisement", advertise)
    accepts = "/proc/sys/net/ipv6/conf/wan/accept_ra"
    four = "routes: [192.168.77.0/24]"
    text = member.text.replace(four, "").replace('192.0.2.1:51820"]', '192.0.2.1:51820"], ' + four)
    member.write(text)
    member.netctl("apply", "--yes")
    assert host.run("cat", "/proc/sys/net/ipv4/ip_forward").strip() == "1"
    assert host.run("cat", "/proc/sys/net/ipv6/conf/all/forwarding").strip() == "0", "IPv4 alone is forwarded"
    assert advertised()

    member.write(text.replace("[192.168.77.0/24]", '["192.168.77.0/24", "fd88::/64"]'))
    member.netctl("apply", "--yes")
    assert host.run("cat", "/proc/sys/net/ipv6/conf/all/forwarding").strip() == "1"
    assert host.run("cat", accepts).strip() == "2"
    assert advertised()
    assert "no changes" in member.netctl("plan")

    member.netctl("down")
    assert host.run("cat", "/proc/sys/net/ipv6/conf/all/forwarding").strip() == "0"
    assert host.run("cat", accepts).strip() == "1"
    assert advertised()


@pytest.fixture
def router(member: Member) -> Iterator[Host]:
    """A host with radvd on the cable to the member's `eth0`, and the address BEYOND."""
    assert RADVD is not None
    host = Host("router")
    try:
        join(member.host, host, "192.0.2.1/24", "192.0.2.254/24")
        host.run("ip", "addr", "add", f"{BEYOND}/128", "dev", "lo")
        host.run("ip", "addr", "add", "2001:db8:1::ffff/64", "dev", "eth0")
        host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
        host.run("sh", "-c", "cat > /run/radvd.conf", text=RADVD_CONFIG)
        wait_for("the router has its addresses", lambda: "tentative" not in host.run("ip", "-6", "addr"))
        argv = [RADVD, "--nodaemon", "-m", "stderr", "-C", "/run/radvd.conf", "-p", "/run/radvd.pid"]
        with host.start(*argv) as daemon:
            yield host
            daemon.kill()
    finally:
        host.close()


@pytest.mark.skipif(RADVD is None, reason="missing: radvd")
def test_a_gateway_lives_on_by_the_advertisements_of_radvd(member: Member, router: Host) -> None:
    """Not only does the route stay: each later advertisement is taken, before, while and after the host forwards."""
    host = member.host

    def parameter(key: str) -> str:
        return host.run("cat", f"/proc/sys/net/ipv6/conf/{key}").strip()

    def advertised() -> str:
        return host.run("ip", "-6", "route", "show", "default", "dev", "eth0", "proto", "ra")

    def reached() -> bool:
        return "1 received" in host.run("ping", "-6", "-c", "1", "-W", "2", BEYOND, check=False)

    def the_next_one_is_taken() -> None:
        host.run("ip", "-6", "route", "del", "default", "dev", "eth0", "proto", "ra")
        wait_for("radvd's next advertisement makes the route again", advertised)
        wait_for("the route carries packets", reached)

    wait_for("the host has a default route by radvd", advertised)
    wait_for("it has an address by radvd that carries packets", reached)
    behind = member.text.replace("routes: [192.168.77.0/24]", "")
    member.write(behind.replace('192.0.2.1:51820"]', '192.0.2.1:51820"], routes: ["fd88::/64"]'))
    member.netctl("apply", "--yes")
    assert advertised(), "the route is gone with the apply"
    assert (parameter("all/forwarding"), parameter("eth0/accept_ra")) == ("1", "2")
    the_next_one_is_taken()
    assert "no changes" in member.netctl("plan")

    member.netctl("down")
    assert advertised(), "the route is gone with `down`"
    assert (parameter("all/forwarding"), parameter("eth0/accept_ra")) == ("0", "1")
    the_next_one_is_taken()
