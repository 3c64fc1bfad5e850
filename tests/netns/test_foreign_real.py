"""What is on a host and not netctl's is named and left alone; `prune` removes only what is netctl's."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.netns.driftkit import SEGMENT, Member
from tests.support.hosts import needs_namespaces
from tests.support.patience import wait_for

pytestmark = [pytest.mark.netns, needs_namespaces]


LOOK = "ip -o link | cut -d: -f2; ip route | sed 's/ linkdown//'; ip -4 -o addr"
LOOK6 = "ip -6 route | sed 's/ linkdown//' | grep -v '^fe80:'"
"""Names, routes and addresses, without the carrier of links, which comes when it comes."""


@pytest.fixture
def one() -> Iterator[Member]:
    member = Member()
    member.host.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far")
    member.host.run("ip", "link", "set", "far", "up")
    member.host.run("ip", "addr", "add", "192.0.2.1/24", "dev", "eth0")
    member.host.run("ip", "link", "set", "eth0", "up")
    try:
        yield member
    finally:
        member.close()


def routes(one: Member) -> str:
    return one.host.run("ip", "route")


@pytest.mark.parametrize(
    ("foreign", "named", "refused", "goes_on"),
    [
        ("ip route add 10.8.0.128/25 dev eth0", "the route 10.8.0.128/25 over eth0", "10.8.0.1", "10.9.0.1"),
        ("ip route add 10.0.0.0/8 dev eth0 metric 50", "the route 10.0.0.0/8 over eth0", "10.8.0.1", None),
        ("ip addr add 10.9.0.77/32 dev lo", "the address 10.9.0.77 on lo", "10.9.0.1", "10.8.0.1"),
        ("ip route add blackhole 10.9.0.0/26", "the route 10.9.0.0/26 over *", "10.9.0.1", "10.8.0.1"),
        (f"ip link add {SEGMENT} type veth", "the name of a veth link", "10.9.0.1", "10.8.0.1"),
        (
            "ip link add vx0 type vxlan external dstport 4789; ip link set vx0 up",
            "its segment needs UDP port 4789, held by the VXLAN link vx0",
            "10.9.0.1",
            "10.8.0.1",
        ),
        (
            "socat -u UDP6-RECV:4789 /dev/null > /dev/null 2>&1 & until ss -Hlun | grep -q :4789; do sleep 0.1; done",
            "held by a program",
            "10.9.0.1",
            "10.8.0.1",
        ),
        (f"ip link add {SEGMENT} type bridge", "the name of a bridge link", "10.9.0.1", "10.8.0.1"),
    ],
)
def test_a_network_is_refused_and_others_go_on(
    one: Member, foreign: str, named: str, refused: str, goes_on: str | None
) -> None:
    one.host.run("sh", "-c", foreign)
    before = one.host.run("sh", "-c", LOOK)
    output = one.netctl("apply")
    assert "not brought up: " in output
    assert named in output
    after = one.host.run("sh", "-c", LOOK)
    assert all(line in after.splitlines() for line in before.splitlines()), "it is left alone"
    assert refused not in after.replace("10.8.0.128", "")
    assert goes_on is None or goes_on in after


@pytest.mark.parametrize(
    ("foreign", "named"),
    [
        ("ip -6 route add fd00:8::/72 dev eth0", "the route fd00:8::/72 over eth0"),
        ("ip -6 route add fd00:8::/48 dev eth0 metric 50", "the route fd00:8::/48 over eth0"),
        ("ip addr add fd00:8::77/128 dev lo", "the route fd00:8::77/128 over lo"),
    ],
)
def test_an_ipv6_pool_is_refused_as_well(one: Member, foreign: str, named: str) -> None:
    """The whole network stays down, its IPv4 too; the other one comes up."""
    one.write(
        one.text.replace("ipv4: 10.8.0.0/24", 'ipv4: 10.8.0.0/24\n    ipv6: "fd00:8::/64"').replace(
            "addresses: {one: 10.8.0.1, two: 10.8.0.2}",
            'addresses: {one: [10.8.0.1, "fd00:8::1"], two: [10.8.0.2, "fd00:8::2"]}',
        )
    )
    one.host.run("sh", "-c", foreign)
    before = one.host.run("sh", "-c", LOOK6)
    output = one.netctl("apply")
    assert "networks.office: not brought up: " in output
    assert named in output
    there = one.host.run("ip", "-o", "addr")
    assert "10.9.0.1/" in there
    assert "10.8.0.1/" not in there
    assert "fd00:8::1/" not in there
    assert "fd00:8::1" not in one.host.run("cat", "/etc/hosts")
    after = one.host.run("sh", "-c", LOOK6)
    assert all(line in after for line in before.splitlines())


def test_a_default_route_is_in_nobodys_way(one: Member) -> None:
    for half in ("default", "0.0.0.0/1", "128.0.0.0/1"):
        one.host.run("ip", "route", "add", half, "via", "192.0.2.9")
    assert "not brought up" not in one.netctl("apply")


def test_what_is_up_stays_up_when_something_comes_later(one: Member) -> None:
    one.netctl("apply")
    one.host.run("ip", "route", "add", "10.8.0.128/25", "dev", "eth0")
    output = one.netctl("apply")
    assert "which came later; the network stays up" in output
    assert "nothing to change" in output


def test_a_lan_that_the_host_has_itself_is_not_routed_into_a_tunnel(one: Member) -> None:
    one.host.run("ip", "addr", "add", "192.168.77.5/24", "dev", "eth0")
    output = one.netctl("apply")
    assert "members.two.routes[0]: not routed: this host has the route 192.168.77.0/24 over eth0" in output
    assert "192.168.77.0/24 dev eth0" in routes(one)
    assert "192.168.77.0/24 dev nctl0" not in routes(one)


def test_a_foreign_tunnel_link_is_an_error_that_names_it(one: Member) -> None:
    one.host.run("ip", "link", "add", "nctl0", "type", "veth")
    assert "there is a link nctl0 that netctl did not make" in one.netctl("apply", code=1)
    assert "nctl0" in one.host.run("ip", "-br", "link", "show", "type", "veth")


def test_foreign_lines_of_the_hosts_file_are_named_and_kept(one: Member) -> None:
    one.host.run("sh", "-c", "echo '198.51.100.7 two.office.netctl' >> /etc/hosts")
    number = len(one.host.run("cat", "/etc/hosts").splitlines())
    output = one.netctl("apply")
    assert f"line {number} of the hosts file, which is not ours, gives two.office.netctl" in output
    assert "198.51.100.7 two.office.netctl" in one.host.run("cat", "/etc/hosts")


def test_prune_takes_only_what_is_ours(one: Member) -> None:
    one.netctl("apply")
    assert "nothing to prune" in one.netctl("prune")
    one.host.run("ip", "route", "add", "198.51.100.0/24", "dev", "eth0")
    one.host.run("ip", "route", "add", "203.0.113.0/24", "dev", "eth0", "proto", "201")
    one.host.run("sh", "-c", "wg set nctl0 peer $(wg genkey | wg pubkey) allowed-ips 198.51.100.9/32")
    one.host.run("ip", "route", "del", "10.8.0.0/24")
    output = one.netctl("prune", "--dry-run")
    assert "- route 203.0.113.0/24 over eth0" in output
    assert "203.0.113.0/24" in routes(one), "a dry run changes nothing"
    assert "pruned: 2 removals" in one.netctl("prune")
    left = routes(one)
    assert "203.0.113.0/24" not in left
    assert "198.51.100.0/24 dev eth0" in left
    assert "10.8.0.0/24 dev" not in left, "prune adds nothing"
    assert one.host.run("wg", "show", "nctl0", "peers").split() == [one.public[1]]


def test_prune_of_many_asks(one: Member) -> None:
    one.netctl("apply")
    for number in range(12):
        one.host.run("ip", "route", "add", f"203.0.113.{number}/32", "dev", "eth0", "proto", "201")
    output = one.netctl("prune", code=1)
    assert "12 removals are more than 10; nothing was removed. Say --yes" in output
    assert routes(one).count("203.0.113.") == 12
    done = one.host.run(
        "sh", "-c", '"$@" 2>/dev/null', "sh", *one.host_command("prune", "--yes", "-o", "json")
    )
    assert json.loads(done)["changed"] == 12
    assert "203.0.113." not in routes(one)


def test_a_network_comes_up_by_itself_once_nothing_is_in_its_way(one: Member) -> None:
    one.start_agent()
    one.host.run("ip", "route", "add", "10.8.0.128/25", "dev", "eth0")
    assert "networks.office: not brought up" in one.netctl("apply")
    refused = one.status()["networks"]
    assert "the route 10.8.0.128/25 over eth0" in refused["office"]["refused"]
    assert refused["party"]["refused"] is None
    assert "refused" in one.netctl("status")
    one.host.run("ip", "route", "del", "10.8.0.128/25")
    wait_for("it is up", lambda: "10.8.0.0/24 dev nctl0" in routes(one))
    wait_for("it is told", lambda: one.status()["networks"]["office"]["refused"] is None)


def test_prune_by_the_agent(one: Member) -> None:
    one.start_agent()
    one.netctl("apply")
    one.host.run("ip", "route", "add", "203.0.113.0/24", "dev", "eth0", "proto", "201")
    assert "pruned: 1 removal\n" in one.netctl("prune") or "203.0.113.0/24" not in routes(one)
    assert "203.0.113.0/24" not in routes(one)


def test_who_takes_the_segments_port_is_named_until_it_goes(one: Member) -> None:
    one.host.run("sh", "-c", "ip link add vx0 type vxlan external dstport 4789; ip link set vx0 up")
    one.start_agent()
    assert "held by the VXLAN link vx0" in one.netctl("apply", "--yes")
    assert any("the VXLAN link vx0" in said for said in one.status()["conditions"])
    assert "10.8.0.1" in one.host.run("ip", "-4", "-o", "addr")
    one.host.run("ip", "link", "del", "vx0")
    wait_for("the segment comes by itself", lambda: SEGMENT in one.host.run("ip", "-o", "link"))


def test_a_host_that_cannot_come_up_after_a_boot_says_so_until_it_can(one: Member) -> None:
    one.start_agent()
    one.netctl("apply", "--yes")
    assert one.agent is not None
    # A boot: no agent, no engine, and somebody is faster.
    for program in ("netctl agent", "(netctl-wg|wireguard-go) nctl0"):
        # One or the other may be a program that has ended meanwhile.
        one.host.run("kill", "-9", *one.host.run("pgrep", "-f", program).split(), check=False)
    one.agent.communicate()
    wait_for("the link is gone", lambda: "nctl0" not in one.host.run("ip", "-o", "link"))
    squatter = one.host.start("socat", "-u", "UDP6-RECV:51820,ipv6only=0", "/dev/null")
    wait_for("it has the port", lambda: ":51820" in one.host.run("ss", "-Hlun"))
    one.start_agent()
    wait_for("it is said", lambda: any("could not be brought" in said for said in one.status()["conditions"]))
    said = next(said for said in one.status()["conditions"] if "could not be brought" in said)
    assert "51820" in said, said
    assert "could not be brought" in one.host.run(*one.host_command("doctor"), check=False)
    squatter.kill()
    squatter.communicate()
    wait_for("the link is up", lambda: "nctl0" in one.host.run("ip", "-o", "link"))
    wait_for("nothing is said", lambda: not any("brought" in said for said in one.status()["conditions"]))


def test_links_that_others_made_on_ours_are_named_when_they_go_with_it(one: Member) -> None:
    one.start_agent()
    one.netctl("apply", "--yes")
    one.host.run("sh", "-c", "ip link add vx7 type vxlan id 77 dev nctl0 remote 10.8.0.2 dstport 4790")
    for _ in range(2):  # a look that began later: what it was made on is known before it goes
        one.host.run("sh", "-c", "wg set nctl0 peer $(wg genkey | wg pubkey) allowed-ips 198.51.100.9/32")
        wait_for("a look", lambda: "198.51.100.9" not in one.host.run("wg", "show", "nctl0", "allowed-ips"))
    one.host.run("kill", "-9", *one.host.run("pgrep", "-f", "(netctl-wg|wireguard-go) nctl0").split())
    wait_for("the link is back", lambda: one.status()["engine_restarts"] == 1)
    assert "vx7" not in one.host.run("ip", "-o", "link"), "the kernel took it along"
    wait_for(
        "it is named", lambda: any("to be made again: vx7" in said for said in one.status()["conditions"])
    )
