"""A host without /etc/protocols (package netbase), as containers and small systems are: nft knows no names there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from netctl.lab.nat import NatKind, ruleset
from netctl.lab.topology import PUBLIC
from tests.netns.netkit import members
from tests.support.hosts import Host, needs_namespaces

pytestmark = [pytest.mark.netns, needs_namespaces]

PROTOCOLS = "/etc/protocols"
OFFICE = """  office:
    mode: lan
    ipv4: 10.8.0.0/24
    ipv6: "fd00:8::/64"
    members: ["*"]
    addresses: {one: ["10.8.0.1", "fd00:8::1"], other: ["10.8.0.2", "fd00:8::2"]}
    acls:
      - {name: web, src: [other], dst: [one], proto: tcp, ports: [80, "8000-8080"]}
      - {name: names, src: [other], dst: [one], proto: udp, ports: [53]}
      - {name: ping, src: ["*"], dst: ["*"], proto: icmp}
      - {name: back, src: [one], dst: ["*"]}
"""


def test_acls_are_applied_and_read_back_whether_it_is_there_or_not() -> None:
    with members("one", "other") as there:
        one = there.add("one")
        one.run("rm", "-f", PROTOCOLS)
        text = there.document(
            {"one": 'endpoints: ["198.18.1.2:51820"]', "other": 'endpoints: ["198.18.2.2:51820"]'}, OFFICE
        )
        there.apply(text, "one")
        listed = one.run("nft", "-p", "list", "table", "inet", "netctl")
        assert "ipv6-icmp" not in listed
        assert "meta l4proto" in listed
        one.run(
            "sh",
            "-c",
            f"cat > {PROTOCOLS}",
            text="icmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\nipv6-icmp 58 IPv6-ICMP\n",
        )
        assert there.try_apply(text, "one") == "OUTCOME None []", "nothing has changed"
        one.run("sh", "-c", 'rm "$1"', "sh", PROTOCOLS)
        there.apply(text, "one")


@pytest.mark.parametrize("kind", list(NatKind))
def test_the_boxes_of_a_lab(kind: NatKind, bare: Host) -> None:
    bare.run("nft", "-c", "-f", "-", text=ruleset(kind, PUBLIC[100]))


@pytest.fixture(scope="module")
def bare() -> Iterator[Host]:
    """A host without the file."""
    host = Host("bare")
    host.run("rm", "-f", PROTOCOLS)
    yield host
    host.close()
