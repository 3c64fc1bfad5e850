"""Ports that Docker publishes, over the overlay: rules as dockerd writes them with iptables-nft, a container's network.

one ── internet ── server ── docker0: box (172.17.0.2, fd17::2), published: 8080 and 8088 to its 80
"""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.netns.netkit import Members, answered, call, internet, members, pings, serving
from tests.netns.onehost import NETCTL
from tests.support.hosts import Host, join, needs_namespaces
from tests.support.patience import wait_for

pytestmark = [pytest.mark.netns, needs_namespaces]

ONE = {4: "10.8.0.1", 6: "fd00:8::1"}
SERVER = {4: "10.8.0.2", 6: "fd00:8::2"}
BOX = {4: "172.17.0.2", 6: "fd17::2"}
ANY = {4: "0.0.0.0", 6: "::"}
FAMILIES = (4, 6)
IDENTITIES = {
    name: json.dumps(
        "ed25519:" + base64.b64encode(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
    )
    for name in ("one", "server")
}
DOCKER = """
set -e
echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
docker() { # iptables, the own network, where nothing is rewritten, the container as a destination and as DNAT's
  $1 -P FORWARD DROP
  $1 -t nat -N DOCKER; $1 -N DOCKER; $1 -N DOCKER-USER; $1 -A DOCKER-USER -j RETURN
  $1 -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
  $1 -t nat -A OUTPUT ! -d $3 -m addrtype --dst-type LOCAL -j DOCKER
  $1 -t nat -A POSTROUTING -s $2 ! -o docker0 -j MASQUERADE
  $1 -t nat -A DOCKER -i docker0 -j RETURN
  for port in 8080 8088; do
    $1 -t nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport $port -j DNAT --to-destination $5:80
  done
  $1 -A FORWARD -j DOCKER-USER
  $1 -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
  $1 -A FORWARD -o docker0 -j DOCKER
  $1 -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
  $1 -A FORWARD -i docker0 -o docker0 -j ACCEPT
  $1 -A DOCKER -d $4 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
}
docker iptables-nft 172.17.0.0/16 127.0.0.0/8 172.17.0.2 172.17.0.2
docker ip6tables-nft fd17::/64 ::1 fd17::2 [fd17::2]
"""
OWN = """
table inet own { chain pre { type nat hook prerouting priority -100; tcp dport 8090 redirect to :9090; }; }
"""
"""Not Docker's: a port of the host itself under another number."""
RULES = """    acls:
      - {name: web, src: [one], dst: [server], proto: tcp, ports: [8080, 8090]}
      - {name: as in the container, src: [one], dst: [server], proto: tcp, ports: [80, 9091]}
      - {name: ping, src: ["*"], dst: ["*"], proto: icmp}
"""
"""8088 is published too, and no rule names it."""


def document(there: Members, mode: str, rules: str, *, stock: bool = False) -> str:
    addresses = ", ".join(f'{n}: ["{at[4]}", "{at[6]}"]' for n, at in (("one", ONE), ("server", SERVER)))
    network = f"""  office:
    mode: {mode}
    ipv4: 10.8.0.0/24
    ipv6: fd00:8::/64
    members: ["*"]
    addresses: {{{addresses}}}
{rules}"""
    # A member without an identity runs no netctl: the senders hold its rules.
    said = {
        name: f"{there.endpoint(name)}{'' if stock else f', identity: {IDENTITIES[name]}'}"
        for name in there.public
    }
    return there.document(said, network)


def denied(server: Host) -> int:
    """Packets of which the table says that no rule named them."""
    listed = json.loads(server.run("nft", "-j", "list", "table", "inet", "netctl"))["nftables"]
    rules = [item["rule"] for item in listed if "rule" in item]
    found = [rule["expr"] for rule in rules if rule.get("comment") == "default deny"]
    return sum(one["counter"]["packets"] for expr in found for one in expr if "counter" in one)


def test_a_published_port_is_one_of_the_member_and_a_container_gets_answers() -> None:
    with members("one", "server") as there:
        internet(there, "one", "server")
        one, server, box = there["one"], there["server"], there.add("box")
        join(server, box, "172.17.0.1/16", "172.17.0.2/16", "docker0")
        for host, address in ((server, "fd17::1/64"), (box, "fd17::2/64")):
            host.run("ip", "address", "add", address, "dev", "docker0", "nodad")
        for gateway in ("172.17.0.1", "fd17::1"):
            box.run("ip", "route", "add", "default", "via", gateway)
        server.run("sh", "-c", DOCKER)
        server.run("nft", "-f", "-", text=OWN)
        for mode in ("routed", "lan"):
            for rules in ("", RULES):
                there.apply(document(there, mode, rules))
                for version in FAMILIES:
                    asks = version == (4 if mode == "routed" else 6)  # a call that is refused takes seconds
                    what = f"{mode}, {'acls' if rules else 'no acls'}, IPv{version}"
                    assert pings(one, SERVER[version]), what
                    assert pings(box, ONE[version]), f"{what}: a container gets no answer"
                    with serving(box, BOX[version], 80):
                        assert answered(one, SERVER[version], 8080) == ONE[version], what
                        if not asks:
                            continue
                        before = denied(server)
                        other = (call if rules else answered)(one, SERVER[version], 8088)
                        assert other == (None if rules else ONE[version]), what
                        if rules:
                            wait_for(f"it is counted: {what}", lambda: denied(server) > before)  # noqa: B023
                        else:
                            assert denied(server) == before, what
                    with serving(server, ANY[version], 9090):
                        assert answered(one, SERVER[version], 8090) == ONE[version], what
                        other = (call if rules else answered)(one, SERVER[version], 9090)
                        assert other == (None if rules else ONE[version]), what
        there.apply(document(there, "routed", RULES, stock=True))
        assert pings(box, ONE[4]), "what is masqueraded is the host's own, to a stock app too"
        said = server.run(NETCTL, "why", "one", "server:8088", check=False)
        assert "denied" in said, said
