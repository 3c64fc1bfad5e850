"""Endpoints by name, without a mediator: a resolver that comes late, and a peer whose name leads elsewhere."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from netctl.system.ourselves import module
from tests.support.hosts import Host, Program, join, needs_namespaces
from tests.support.patience import BUSY_S, wait_for

pytestmark = [pytest.mark.netns, needs_namespaces]
NETCTL = str(Path(sys.executable).with_name("netctl"))
NAME = "vpn.example.net"
OLD, NEW = "198.51.100.1", "198.51.100.77"
ZONE = "/run/zone.json"
RESOLV = "nameserver 192.0.2.254\noptions timeout:1 attempts:1\n"
DOCUMENT = """apiVersion: netctl/v1
mediators: []
members:
  one: {wireguard: "%s"}
  two: {wireguard: "%s", endpoints: ["%s:51820"]}
networks:
  office: {mode: routed, ipv4: 10.8.0.0/24, members: ["*"], addresses: {one: 10.8.0.1, two: 10.8.0.2}}
"""
LASTS_S = 90.0
PATIENT = "nameserver 192.0.2.254\noptions timeout:30 attempts:3\n"
"""With this a question to a silent resolver lasts `LASTS_S`."""


@dataclass
class World:
    """Two members with a router between them that has the DNS server."""

    router: Host
    one: Host
    two: Host
    agents: list[Program]
    server: Program

    def dns(self, up: bool) -> None:
        """Let the resolver answer, or have its packets lost on the way."""
        self.router.run("nft", "flush", "ruleset")
        if not up:
            rule = "table inet t { chain c { type filter hook input priority 0; udp dport 53 drop; }; }"
            self.router.run("nft", rule)

    def zone(self, *addresses: str) -> None:
        self.router.run("sh", "-c", f"cat > {ZONE}", text=json.dumps({NAME: addresses}))

    def start(self, host: Host) -> None:
        inside = host.command(NETCTL, "agent")
        self.agents.append(Program(inside, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        wait_for("the agent answers", lambda: "no agent" not in host.run(NETCTL, "status", check=False))

    def reached(self) -> bool:
        return ", 1 received" in self.one.run("ping", "-c1", "-W1", "10.8.0.2", check=False)


@pytest.fixture
def world() -> Iterator[World]:
    router, one, two = (Host(name) for name in ("router", "one", "two"))
    made = World(router, one, two, [], router.start(*module("netctl.lab.dnsserver", ZONE)))
    try:
        join(one, router, "192.0.2.1/24", "192.0.2.254/24", "eth1")
        join(two, router, f"{OLD}/24", "198.51.100.254/24", "eth2")
        router.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        one.run("ip", "route", "add", "default", "via", "192.0.2.254")
        two.run("ip", "route", "add", "default", "via", "198.51.100.254")
        made.zone(OLD)
        keys = [X25519PrivateKey.generate() for _ in range(2)]
        public = [base64.b64encode(key.public_key().public_bytes_raw()).decode() for key in keys]
        for host, key in zip((one, two), keys, strict=True):
            private = base64.b64encode(key.private_bytes_raw()).decode()
            host.run("sh", "-c", "umask 077; cat > /var/lib/netctl/wireguard.key", text=private)
            host.run(NETCTL, "keys", "init")
            host.run("sh", "-c", "rm -f /etc/resolv.conf; cat > /etc/resolv.conf", text=RESOLV)
            host.run("sh", "-c", "cat > /etc/netctl/networks.yaml", text=DOCUMENT % (*public, NAME))
        yield made
    finally:
        for host in (one, two, router):
            host.close()
        for agent in (*made.agents, made.server):
            agent.communicate(timeout=BUSY_S)


def test_a_name_that_comes_late_and_a_name_that_moves(world: World) -> None:
    world.dns(up=False)
    for host in (world.one, world.two):
        world.start(host)
        host.run(NETCTL, "apply", "--yes")
    said = f"its endpoint does not resolve: {NAME}:51820"
    wait_for("it is said", lambda: said in world.one.run(NETCTL, "status", check=False))
    assert not world.reached()

    world.dns(up=True)
    took = wait_for("the name is known, and there is a tunnel", world.reached)
    print(f"DNS came: the tunnel after {took:.1f} s")
    wait_for("no more", lambda: "does not resolve" not in world.one.run(NETCTL, "status", check=False))

    # The peer is another machine now: it knows nobody's address, and has no session.
    world.two.run(NETCTL, "down")
    world.two.run("ip", "addr", "del", f"{OLD}/24", "dev", "eth2")
    world.two.run("ip", "addr", "add", f"{NEW}/24", "dev", "eth2")
    world.two.run("ip", "route", "replace", "default", "via", "198.51.100.254")
    world.two.run(NETCTL, "up")
    world.zone(NEW)
    took = wait_for("the tunnel follows the name", world.reached)
    print(f"the name moved: the tunnel after {took:.1f} s")
    assert f"{NEW}:51820" in world.one.run("wg", "show", "nctl0", "endpoints")

    # A resolver that says nothing holds up neither an answer nor the end of the agent.
    world.dns(up=False)
    world.one.run("sh", "-c", "cat > /etc/resolv.conf", text=PATIENT)
    text = world.one.run("cat", "/etc/netctl/networks.yaml").replace(NAME, f"other.{NAME}")
    world.one.run("sh", "-c", "cat > /etc/netctl/networks.yaml", text=text)
    world.one.run(NETCTL, "apply", "--yes")
    began = time.monotonic()
    world.one.run("kill", *world.one.run("pgrep", "-f", "netctl agent").split())
    world.agents[0].communicate(timeout=BUSY_S)
    took = time.monotonic() - began
    print(f"the agent ended after {took:.1f} s while a name was being looked up")
    assert took < LASTS_S / 2
