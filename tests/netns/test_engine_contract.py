"""The law of every engine: after an apply nothing is left to do, from any state, after a crash at any step.

The same stories on each engine. Where this machine's kernel has no WireGuard, `tests/kernel` runs those of `kernel` in
a guest that has one.
"""

from __future__ import annotations

import json

import pytest

from tests.support.hosts import Host, needs_namespaces

pytestmark = [pytest.mark.netns, needs_namespaces]

ENGINES = ["fake", "netctl-wg", "wireguard-go", "kernel"]
PRELUDE = """
import base64, hashlib, json, os, pathlib, subprocess, sys
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from netctl.config import load_document, resolve
from netctl.engine import FakeEngine, apply_plan, open_engine
from netctl.model.hoststate import HostState
from netctl.plan import describe, diff

KIND = sys.argv[1]
STATE = pathlib.Path("/var/lib/netctl")

def private(name):
    return X25519PrivateKey.from_private_bytes(hashlib.blake2s(name.encode()).digest())

def public(name):
    return base64.b64encode(private(name).public_key().public_bytes_raw()).decode()

def key(name):
    (STATE / "wireguard.key").write_text(base64.b64encode(private(name).private_bytes_raw()).decode())

def opened():
    return FAKE if KIND == "fake" else open_engine(STATE / "wireguard.key", kind=KIND, state_dir=STATE)

def desired(mode="lan", a="10.9.0.1", c=True, me="a", acl=False):
    rows = [f'  a: {{wireguard: "{public(me)}", endpoints: ["192.0.2.1:51820"]}}']
    rows.append(f'  b: {{wireguard: "{public("b")}", endpoints: ["192.0.2.2:51820"]}}')
    more = f', c: 10.9.0.3' if c else ''
    if c:
        rows.append(f'  c: {{wireguard: "{public("c")}", endpoints: ["192.0.2.3:51820"]}}')
    text = "apiVersion: netctl/v1\\nmediators: []\\nmembers:\\n" + "\\n".join(rows)
    text += f'\\nnetworks:\\n  n:\\n    mode: {mode}\\n    ipv4: 10.9.0.0/24\\n    members: ["*"]\\n'
    text += f"    addresses: {{a: {a}, b: 10.9.0.2{more}}}\\n"
    text += "    acls: [{name: ping, src: ['*'], dst: ['*'], proto: icmp}]\\n" if acl else ""
    document = load_document(text).document
    live = frozenset(member.wireguard for member in document.members.values())
    return resolve(document, "a", None, live=live).state

FAKE = FakeEngine()
key("a")

def reach(state):
    engine = opened()
    outcome = apply_plan(engine, state)
    left = describe(diff(state, engine.read()))
    again = apply_plan(engine, state).changed
    assert engine.faults() == 0
    engine.close()
    assert outcome.error is None and not left and again == 0, (outcome, left, again)
    return outcome.changed
"""


def story(kind: str, code: str) -> str:
    """Run a story on a fresh host; what it printed."""
    host = Host("contract")
    try:
        if kind == "kernel" and "Unknown device type" in host.run(
            "ip", "link", "add", "wgprobe", "type", "wireguard", check=False
        ):
            pytest.skip("the kernel has no WireGuard")
        return host.python(PRELUDE + code, kind).strip()
    finally:
        host.close()


@pytest.mark.parametrize("kind", ENGINES)
def test_edits_of_every_kind_converge(kind: str) -> None:
    """The lease moves inside its pool, the mode turns and turns back, a peer goes, rules come and go."""
    code = """
steps = [desired(), desired(a="10.9.0.77"), desired(mode="routed", a="10.9.0.77"), desired(), desired(c=False),
         desired(acl=True), desired(mode="routed"), HostState()]
print(json.dumps([reach(step) for step in steps]))
"""
    assert all(changed > 0 for changed in json.loads(story(kind, code)))


@pytest.mark.parametrize("kind", ENGINES)
def test_a_member_with_a_new_key_gets_its_segment_anew(kind: str) -> None:
    """Its device, addresses and every route from them are made again in one apply."""
    code = """
reach(desired())
key("a again")
reach(desired(me="a again"))
print("good")
"""
    assert story(kind, code) == "good"


@pytest.mark.parametrize("kind", ENGINES)
def test_a_crash_after_each_step_converges(kind: str) -> None:
    """Every prefix of a first apply, each followed by a new engine: the second apply ends it, a third is none."""
    code = """
steps = len(diff(desired(), HostState()).changes)
for stop in range(0, steps, 1 if KIND == "fake" else 3):
    engine = opened()
    for change in diff(desired(), engine.read()).changes[:stop]:
        engine.apply(change)
    engine.close()
    reach(desired())
    reach(HostState())
print("good")
"""
    assert story(kind, code) == "good"


@pytest.mark.parametrize("kind", [kind for kind in ENGINES if kind != "fake"])
def test_a_renamed_link_gets_its_name_back_and_nothing_is_made_anew(kind: str) -> None:
    """Renamed while it is up, which is all there is to do; or taken down for it, which loses addresses and routes.

    A kernel before 6.2 renames only what is down: there the engine takes it down, and puts back what that loses.
    """
    code = """
import errno
from netctl.engine.links.netlink import Netlink
from netctl.plan.changes import RenameLink
run = lambda *argv: subprocess.run(argv, check=True, capture_output=True, text=True).stdout
reach(desired())
index = run("ip", "-o", "link", "show", "nctl0").split(":")[0]
segment = next(iter(desired().segments))
def renamed():
    engine = opened()
    plan = diff(desired(), engine.read())
    engine.close()
    return [type(change) for change in plan.changes]
def look():
    lines = run("ip", "addr").splitlines() + run("ip", "route").splitlines() + run("ip", "-6", "route").splitlines()
    lines += run("bridge", "fdb", "show", "dev", segment).splitlines()
    kept = [line.strip() for line in lines if "link-local" not in line and "fe80::" not in line]
    return sorted(line for line in kept if "valid_lft" not in line)
def rename(before, after):
    done = subprocess.run(["ip", "link", "set", before, "name", after], capture_output=True, text=True)
    if done.returncode == 0:
        return
    assert os.strerror(errno.EBUSY) in done.stderr, done
    netlink = Netlink()
    netlink.rename(before, after)
    netlink.close()
before = look()
rename("nctl0", "mine"); rename(segment, "yours")
assert renamed() == [RenameLink, RenameLink], renamed()
assert reach(desired()) == 2
assert look() == before, (before, look())
run("ip", "link", "set", "nctl0", "down"); run("ip", "link", "set", "nctl0", "name", "mine")
run("ip", "link", "set", "mine", "up")
assert renamed()[0] is RenameLink and len(renamed()) > 1
reach(desired())
assert look() == before, (before, look())
assert run("ip", "-o", "link", "show", "nctl0").split(":")[0] == index, "it is the same device"
print("good")
"""
    assert story(kind, code) == "good"


HANDSHAKES = """
import socket, time
from dataclasses import replace
from ipaddress import ip_address
from netctl.agent.host import knock
from netctl.model.addresses import SocketAddress
from netctl.model.keys import WireGuardKey
from netctl.plan.changes import RemovePeer, SetPeer
REKEY_TIMEOUT_S = 5.0
B = WireGuardKey(private("b").public_key().public_bytes_raw())
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

def mailbox():
    box = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    box.bind(("127.0.0.1", 0))
    box.settimeout(60)
    return box

def place(box):
    return SocketAddress("127.0.0.1", box.getsockname()[1])

def begun(box):
    knock(ip_address("10.9.0.2"), "nctl0")
    datagram = box.recv(2048)
    assert (len(datagram), datagram[0]) == (148, 1), "an initiation"
    return time.monotonic()

def rows(engine):
    return {key: (peer.allowed_ips, peer.keepalive_s) for key, peer in engine.read().wireguard.peers.items()}
"""


@pytest.mark.parametrize("kind", [kind for kind in ENGINES if kind != "fake"])
def test_a_handshake_is_begun_anew_at_another_endpoint(kind: str) -> None:
    """WireGuard waits for Rekey-Timeout after an initiation that was lost. The peer stays as it is otherwise."""
    code = """
reach(desired())
engine = opened()
peers, dead, alive = rows(engine), mailbox(), mailbox()
engine.steer({B: place(dead)}, frozenset({B}))
lost_at = begun(dead)
engine.steer({B: place(alive)}, frozenset({B}))
assert begun(alive) - lost_at < REKEY_TIMEOUT_S
begun_at = time.monotonic()
engine.steer({}, frozenset({B}))
assert begun(alive) - begun_at < REKEY_TIMEOUT_S
assert rows(engine) == peers
gone = WireGuardKey(bytes([9]) * 32)
engine.steer({}, frozenset({gone}))
assert rows(engine) == peers
print("good")
"""
    assert story(kind, HANDSHAKES + code) == "good"


@pytest.mark.parametrize("kind", [kind for kind in ENGINES if kind != "fake"])
def test_a_handshake_that_was_tried_without_an_endpoint_holds_up_none(kind: str) -> None:
    """A keepalive asks for one as soon as the peer is there."""
    code = """
reach(desired())
engine, alive = opened(), mailbox()
link, peer = desired().wireguard.name, desired().wireguard.peers[B]
engine.apply(RemovePeer(link, B))
began = time.monotonic()
engine.apply(SetPeer(link, replace(peer, endpoint=None, keepalive_s=25), added=True))
knock(ip_address("10.9.0.2"), "nctl0")
peers = rows(engine)
engine.steer({B: place(alive)})
assert begun(alive) - began < REKEY_TIMEOUT_S
assert rows(engine) == peers
print("good")
"""
    assert story(kind, HANDSHAKES + code) == "good"


def test_a_second_address_outlives_the_first_of_its_pool() -> None:
    """The kernel would take it away with the first one."""
    code = """
reach(desired())
reach(desired(a="10.9.0.77"))
shown = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=True).stdout
assert "10.9.0.77/24" in shown and "10.9.0.1/24" not in shown, shown
print("good")
"""
    assert story("wireguard-go", code) == "good"


def test_a_running_engine_is_taken_over_and_a_dead_one_replaced() -> None:
    code = """
def processes():
    return subprocess.run(["pgrep", "-x", "wireguard-go"], capture_output=True, text=True).stdout.split()
reach(desired())
first = processes()
assert len(first) == 1
reach(desired(c=False))
assert processes() == first, "a new agent takes over what runs"
os.kill(int(first[0]), 9)
while subprocess.run(["ip", "link", "show", "nctl0"], capture_output=True).returncode == 0:
    pass  # the kernel takes the link away only after the process
reach(desired(c=False))
assert processes() != first and len(processes()) == 1
reach(HostState())
print("good")
"""
    assert story("wireguard-go", code) == "good"


def test_a_foreign_link_of_our_name_is_named_and_left_alone() -> None:
    code = """
subprocess.run(["ip", "link", "add", "nctl0", "type", "veth", "peer", "name", "other"], check=True)
engine = opened()
outcome = apply_plan(engine, desired())
engine.close()
assert outcome.rolled_back and outcome.changed == 0
assert "nctl0" in outcome.error and "netctl did not make" in outcome.error, outcome
kind = subprocess.run(["ip", "-d", "link", "show", "nctl0"], capture_output=True, text=True, check=True).stdout
assert "veth" in kind
tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
assert "netctl" not in tables
print("good")
"""
    assert story("wireguard-go", code) == "good"


def test_foreign_routes_addresses_and_hosts_lines_stay() -> None:
    code = """
run = lambda *argv: subprocess.run(argv, check=True, capture_output=True, text=True).stdout
run("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "lan1"); run("ip", "link", "set", "lan1", "up")
run("ip", "link", "set", "lan0", "up")
run("ip", "addr", "add", "198.51.100.1/24", "dev", "lan0"); run("ip", "route", "add", "203.0.113.0/24", "dev", "lan0")
run("nft", "add", "table", "inet", "theirs")
hosts = pathlib.Path("/etc/hosts"); hosts.write_text(hosts.read_text() + "198.51.100.9 theirs\\n")
def look():
    addresses = run("ip", "-o", "addr").replace(" tentative", "")
    return [run("ip", "route"), addresses, run("nft", "list", "ruleset"), hosts.read_text()]
before = look()
reach(desired()); reach(HostState())
after = look()
assert before == after, (before, after)
print("good")
"""
    assert story("wireguard-go", code) == "good"
