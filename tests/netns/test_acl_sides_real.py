"""Who holds an ACL, with real packets: the sender for a stock app, the receiver against a sender that holds nothing.

`phone` is a machine with a stock WireGuard app and nothing of ours; a hostile member has thrown its own table away.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.netns.netkit import Members, answered, call, internet, members, pings, serving
from tests.support.hosts import Host, join, needs_namespaces
from tests.support.patience import BUSY_S, wait_for

pytestmark = [pytest.mark.netns, needs_namespaces]

NAMES = ("one", "two", "phone")
AT = {name: {4: f"10.8.0.{n}", 6: f"fd00:8::{n}"} for n, name in enumerate(NAMES, 1)}
LAN = {4: ("192.168.77.1", "192.168.77.9"), 6: ("fd77::1", "fd77::9")}
"""Behind `phone` or `two`: the gateway's own address, and the machine's there."""
HEAR = """
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(('::', 7777)); s.settimeout(120)
print('up', flush=True)
found = set()
try:
    while True:
        data = s.recv(100)
        if data == b'last': break
        found.add(data.decode())
except TimeoutError: pass
print(' '.join(sorted(found)))
"""
TELL = """
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(('::', int(sys.argv[2])))
where = sys.argv[1] if ':' in sys.argv[1] else '::ffff:' + sys.argv[1]
s.sendto(sys.argv[3].encode(), (where, 7777))
"""


def identity() -> str:
    raw = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    return f'identity: "ed25519:{base64.b64encode(raw).decode()}"'


def document(
    there: Members,
    *lines: str,
    mode: str = "routed",
    stock: tuple[str, ...] = ("phone",),
    lan: str | None = None,
) -> str:
    said = {}
    for name in NAMES:
        said[name] = there.endpoint(name) + ("" if name in stock else f", {identity()}")
        said[name] += ', routes: [192.168.77.0/24, "fd77::/64"]' if name == lan else ""
    where = ", ".join(f'{name}: [{at[4]}, "{at[6]}"]' for name, at in AT.items())
    body = [
        f"mode: {mode}",
        "ipv4: 10.8.0.0/24",
        'ipv6: "fd00:8::/64"',
        'members: ["*"]',
        f"addresses: {{{where}}}",
    ]
    return there.document(said, "  office:\n" + "".join(f"    {line}\n" for line in (*body, *lines)))


def stock_app(there: Members, allowed: dict[str, str]) -> None:
    """`phone` as its user has set it up: all routes to its peers, no filter."""
    phone = there["phone"]
    phone.run("wireguard-go", "wg0")
    phone.run("wg", "set", "wg0", "listen-port", "51820", "private-key", "/var/lib/netctl/wireguard.key")
    for name, prefixes in allowed.items():
        peer = ("peer", there.public[name], "endpoint", f"{there.outside[name]}:51820")
        phone.run("wg", "set", "wg0", *peer, "allowed-ips", prefixes)
    for address in (f"{AT['phone'][4]}/24", f"{AT['phone'][6]}/64"):
        phone.run("ip", "addr", "add", address, "dev", "wg0", *(["nodad"] if ":" in address else []))
    phone.run("ip", "link", "set", "wg0", "up")


def behind(there: Members, name: str) -> Host:
    """A LAN behind a member, with one machine that knows the way back."""
    machine = there.add("machine")
    host = there[name]
    join(host, machine, f"{LAN[4][0]}/24", f"{LAN[4][1]}/24", "lan0")
    for end, address in ((host, LAN[6][0]), (machine, LAN[6][1])):
        end.run("ip", "addr", "add", f"{address}/64", "dev", "lan0", "nodad")
    machine.run("ip", "route", "add", "10.8.0.0/24", "via", LAN[4][0])
    machine.run("ip", "-6", "route", "add", "fd00:8::/64", "via", LAN[6][0])
    return machine


def own_addresses(*names: str) -> str:
    return ",".join(f"{AT[name][4]}/32,{AT[name][6]}/128" for name in names)


def denied(host: Host, why: str) -> int:
    """How many packets the rules of this comment have dropped."""
    listed = json.loads(host.run("nft", "-j", "list", "table", "inet", "netctl"))["nftables"]
    rules = [item["rule"] for item in listed if item.get("rule", {}).get("comment") == why]
    return sum(e["counter"]["packets"] for rule in rules for e in rule["expr"] if "counter" in e)


def through(*wanted: tuple[Host, str, int]) -> list[tuple[str, str, int]]:
    """Which of these (from, to, port) connect, tried all at once: what is denied takes its time to be so."""
    with ThreadPoolExecutor(len(wanted)) as pool:
        answers = list(pool.map(lambda one: call(*one), wanted))
    return [
        (host.name, at, port)
        for (host, at, port), answer in zip(wanted, answers, strict=True)
        if answer is not None
    ]


@contextmanager
def listening(host: Host, address: str, teller: Host) -> Iterator[set[str]]:
    """UDP datagrams to port 7777 of a host; in the set what they said, once the last has come, which is `teller`'s."""
    ear = host.start(sys.executable, "-c", HEAR)
    assert ear.stdout is not None
    assert ear.stdout.readline() == "up\n"
    heard: set[str] = set()
    yield heard
    teller.run(sys.executable, "-c", TELL, address, "0", "last")
    heard.update(ear.communicate(timeout=BUSY_S)[0].split())


RULES = """acls:
      - {name: web, src: [one], dst: [phone], proto: tcp, ports: [80]}
      - {name: talk, src: [two], dst: [phone], proto: udp, ports: [7777]}
      - {name: back, src: [phone], dst: [two], proto: tcp, ports: [80]}
      - {name: ping, src: [one], dst: [two], proto: icmp}"""


@pytest.mark.parametrize("mode", ["routed", "lan"])
def test_senders_hold_the_acls_for_a_stock_app(mode: str) -> None:
    """It filters nothing, so what no rule allows does not leave its sender; answers do."""
    with members(*NAMES) as there:
        internet(there, *NAMES)
        stock_app(there, {name: own_addresses(name) for name in ("one", "two")})
        there.apply(document(there, RULES, mode=mode), "one", "two")
        one, two, phone = (there[name] for name in NAMES)
        for version in (4, 6):
            at = AT["phone"][version]
            before = denied(one, "stock destination")
            with serving(phone, at, 80, 81):
                assert answered(one, at, 80) == AT["one"][version]
                assert not through((one, at, 81), (two, at, 80))
            assert not pings(one, at, tries=1), "another protocol"
            assert denied(one, "stock destination") >= before + 2
            with serving(two, AT["two"][version], 80, 81), serving(one, AT["one"][version], 80):
                assert answered(phone, AT["two"][version], 80) == at, "its answers go to it"
                assert not through((phone, AT["two"][version], 81), (phone, AT["one"][version], 80))
            with listening(phone, at, two) as heard:
                for host, name in ((one, "one"), (two, "two")):
                    host.run(sys.executable, "-c", TELL, at, "5000", name, check=False)
            assert heard == {"two"}
            assert pings(one, AT["two"][version]), "to a member of ours it is the receiver's business"


def test_senders_hold_the_acls_for_what_is_behind_a_stock_app() -> None:
    rules = """acls:
      - {name: nas, src: [one], dst: ["192.168.77.9/32", "fd77::9/128"], proto: tcp, ports: [80]}"""
    with members(*NAMES) as there:
        internet(there, *NAMES)
        stock_app(there, {name: own_addresses(name) for name in ("one", "two")})
        machine = behind(there, "phone")
        there["phone"].run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        there.apply(document(there, rules, lan="phone"), "one", "two")
        for version in (4, 6):
            at = LAN[version][1]
            with serving(machine, at, 80, 81):
                assert answered(there["one"], at, 80) == AT["one"][version]
                assert not through((there["one"], at, 81), (there["two"], at, 80))


def test_a_hub_holds_the_acls_for_a_stock_spoke() -> None:
    """The spokes do not see each other, so what goes from one to the stock app is the hub's to deny."""
    rules = "acls: [{name: web, src: [one], dst: [phone], proto: tcp, ports: [80]}]"
    with members(*NAMES) as there:
        internet(there, *NAMES)
        stock_app(there, {"two": "10.8.0.0/24,fd00:8::/64"})
        there.apply(document(there, "topology: {hub: two}", rules), "one", "two")
        one, hub, phone = (there[name] for name in NAMES)
        for throw_away in (False, True):
            if throw_away:
                one.run("nft", "delete", "table", "inet", "netctl")
            for version in (4, 6):
                at = AT["phone"][version]
                with serving(phone, at, 80, 81), serving(one, AT["one"][version], 80):
                    assert answered(one, at, 80) == AT["one"][version]
                    assert not through((one, at, 81), (hub, at, 80), (phone, AT["one"][version], 80))


OPEN = """acls:
      - {name: web, src: [one], dst: [two], proto: tcp, ports: [80]}
      - {name: nas, src: [one], dst: ["192.168.77.9/32", "fd77::9/128"], proto: tcp, ports: [80]}"""


@pytest.mark.parametrize("masquerade", [False, True])
def test_a_receiver_and_a_gateway_need_no_honest_sender(masquerade: bool) -> None:
    """Its own table gone, a member begins nothing that the rules do not allow it, there and behind it."""
    with members(*NAMES) as there:
        internet(there, *NAMES)
        machine = behind(there, "two")
        lines = (f"masquerade: {str(masquerade).lower()}", OPEN)
        there.apply(document(there, *lines, stock=(), lan="two"))
        for name in ("one", "phone"):
            there[name].run("nft", "delete", "table", "inet", "netctl")
        one, two, third = (there[name] for name in NAMES)
        for version in (4, 6):
            gate, nas = LAN[version]
            for host, at in ((two, AT["two"][version]), (machine, nas)):
                before = denied(two, "default deny")
                with serving(host, at, 80, 81):
                    assert answered(one, at, 80)
                    assert not through((one, at, 81), (third, at, 80))
                assert not pings(one, at, tries=1)
                wait_for("each is counted", lambda: denied(two, "default deny") >= before + 3)  # noqa: B023
            # The other address of the gateway is the gateway too.
            with serving(two, gate, 80):
                assert not through((one, gate, 80))
