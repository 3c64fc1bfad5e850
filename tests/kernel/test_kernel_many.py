"""5,000 peers on the kernel's WireGuard: read, compared, applied, changed, taken away.

Where this machine's kernel has no WireGuard, these run in the guest of `test_kernel_guest`.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from netctl.engine.linux import kernel_has_wireguard
from tests.support.hosts import Host, needs_namespaces

TIMEOUT_S = 1200.0
"""Software emulation takes a minute and a half on a quiet machine, and more than 200 s on a busy one."""

pytestmark = [
    pytest.mark.kernel,
    needs_namespaces,
    pytest.mark.skipif(not kernel_has_wireguard(), reason="this kernel has no WireGuard"),
]

CODE = """
import dataclasses, hashlib, ipaddress, json, pathlib, subprocess, time
from netctl.engine import apply_plan, open_engine
from netctl.engine.filter import nft
from netctl.model.addresses import SocketAddress, host_prefix
from netctl.model.hoststate import HostState, Peer, WireGuardLink
from netctl.model.keys import WireGuardKey
from netctl.plan import diff

PEERS, GATEWAY_PREFIXES = 5000, 2000
STATE = pathlib.Path("/var/lib/netctl")
private = subprocess.run(["wg", "genkey"], capture_output=True, text=True, check=True).stdout
public = subprocess.run(["wg", "pubkey"], input=private, capture_output=True, text=True, check=True).stdout
(STATE / "wireguard.key").write_text(private)

def peer(number, port=51820):
    key = WireGuardKey(hashlib.blake2s(b"%d" % number).digest())
    inner = ipaddress.ip_address((10 << 24) + number), ipaddress.ip_address((0xfd << 120) + number)
    outer = f"192.0.{number >> 8}.{number & 255}" if number % 2 else f"2001:db8::{number:x}"
    return Peer(key, frozenset(map(host_prefix, inner)), SocketAddress.of(outer, port), 25 if number % 3 else 0)

peers = {p.key: p for p in map(peer, range(1, PEERS))}
# A gateway for more networks than one netlink attribute holds.
gateway = peer(PEERS)
many = frozenset(ipaddress.ip_network(((172 << 24) + (i << 8), 24)) for i in range(GATEWAY_PREFIXES))
peers[gateway.key] = dataclasses.replace(gateway, allowed_ips=gateway.allowed_ips | many)
link = WireGuardLink(WireGuardKey.parse(public.strip()), 51820, 1420, frozenset(), peers)
want = HostState(wireguard=link)
engine = open_engine(STATE / "wireguard.key", kind="kernel", state_dir=STATE)
took = {}

def timed(name, work):
    start = time.perf_counter()
    result = work()
    took[name] = round(time.perf_counter() - start, 3)
    return result

def reach(name, state):
    outcome = timed(name, lambda: apply_plan(engine, state))
    while outcome.error == nft.TOO_LONG and outcome.rolled_back:  # a busy machine that emulates: as an agent would
        outcome = timed(name, lambda: apply_plan(engine, state))
    assert outcome.error is None, outcome
    return outcome.changed

assert engine.kind == "kernel"
assert reach("first apply", want) >= PEERS + 1
actual = timed("read", engine.read)
assert len(actual.wireguard.peers) == PEERS
assert actual.wireguard.peers == peers
shown = timed("wg show", lambda: subprocess.run(["wg", "show", "nctl0", "allowed-ips"], capture_output=True, text=True))
assert len(shown.stdout.splitlines()) == PEERS
assert len(max(shown.stdout.splitlines(), key=len).split()) == 1 + 2 + GATEWAY_PREFIXES
assert not timed("diff", lambda: diff(want, actual))
moved = peer(7, port=4000)
one = HostState(wireguard=dataclasses.replace(link, peers={**peers, moved.key: moved}))
assert reach("one peer", one) == 1
fewer = dict(list(peers.items())[100:])
assert reach("100 gone, one back", HostState(wireguard=dataclasses.replace(link, peers=fewer))) >= 100
engine.close()
print(json.dumps(took))
"""


def test_five_thousand_peers(record_property: Callable[[str, object], None]) -> None:
    host = Host("kernel-many")
    try:
        took = json.loads(host.python(CODE, timeout=TIMEOUT_S).splitlines()[-1])
    finally:
        host.close()
    record_property("seconds", took)
    print("seconds:", took)
    assert took["read"] < took["first apply"]
