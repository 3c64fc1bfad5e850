"""An apply that is killed after each of its steps, and what an apply leaves alone: real processes, real tunnels."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.netns.onehost import STATE, One, one_host
from tests.support.hosts import Host, join, needs_namespaces
from tests.support.patience import wait_for

pytestmark = [pytest.mark.netns, needs_namespaces]

KILLED = """
import os, signal, sys
from netctl.cli import main
from netctl.engine.linux import LinuxEngine

class Counted(LinuxEngine):
    '''After so many steps the process is gone, as by kill -9: nothing is closed, flushed or said.'''
    def apply(self, change):
        super().apply(change)
        steps.append(change)
        if len(steps) == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)

    def apply_all(self, changes):
        for change in changes:
            self.apply(change)

steps = []
import netctl.engine as engine
engine.open_engine = lambda key, *, kind="auto", state_dir, hosts_file: Counted(
    key, kind=kind, state_dir=state_dir, hosts_file=hosts_file)
code = main.main(["apply", "--yes", "--engine", "wireguard-go", *sys.argv[2:]])
print("steps", len(steps))
sys.exit(code)
"""


def twenty(one: One) -> str:
    """A document whose first apply on this host has at least 20 steps: a segment, a routed network, three peers."""
    lines = one.good.splitlines()
    key = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg%s="
    more = [
        f'  p{number}: {{wireguard: "{key % letter}", endpoints: ["192.0.2.{number}:51820"]}}'
        for number, letter in ((3, "I"), (4, "M"))
    ]
    place = next(number for number, line in enumerate(lines) if line.startswith("  there:")) + 1
    lines[place:place] = more
    text = "\n".join(lines).replace("there: 10.8.0.2}", "there: 10.8.0.2, p3: 10.8.0.3, p4: 10.8.0.4}")
    return text + (
        "\n  party: {mode: lan, ipv4: 10.9.0.0/24, members: [here, there], "
        "addresses: {here: 10.9.0.1, there: 10.9.0.2}}\n"
    )


def killed_after(one: One, stop: int, *arguments: str) -> tuple[int, str]:
    """An apply that is killed after so many steps, 0 for never; its exit code and what it said."""
    one.host.run("sh", "-c", "cat > /run/killed.py", text=KILLED)
    command = (sys.executable, "/run/killed.py", str(stop), *arguments)
    said = one.host.run("sh", "-c", '"$@" 2>&1; echo "exit $?"', "sh", *command)
    text, _, code = said.rpartition("exit ")
    return int(code), text


LOOK = "ip -o addr show; ip route show; ip -6 route show; wg show nctl0 allowed-ips"


def test_killed_after_each_step_the_next_apply_converges_and_a_third_is_none() -> None:
    with one_host() as one:
        one.write(twenty(one))
        apply = partial(killed_after, one)
        code, said = apply(0)
        assert code == 0, said
        steps = int(said.rpartition("steps ")[2])
        assert steps >= 20, said
        whole = one.host.run("sh", "-c", LOOK)
        one.netctl("down", "--yes")
        for stop in range(1, steps + 1):
            armed = ("--confirm-within", "600s") if stop == steps // 2 else ()
            code, said = apply(stop, *armed)
            assert code == 137, (stop, said)
            if armed:  # the way back was on the disk before the first step
                assert len(one.waiting()) == 1
                assert one.netctl("confirm")[0] == 1, "it was never finished"
                assert one.netctl("rollback")[0] == 0
                assert "nctl0" not in one.host.run("ip", "-br", "link")
                code, said = apply(stop, "--force")
                assert code == 137, (stop, said)
            code, said = one.netctl("apply", "--yes", "--engine", "wireguard-go")
            assert code == 0, (stop, said)
            assert one.netctl("apply", "--yes") == (0, "nothing to change\n"), stop
            assert one.netctl("down", "--yes")[0] == 0
        assert one.netctl("apply", "--yes", "--engine", "wireguard-go")[0] == 0
        again = one.host.run("sh", "-c", LOOK)
        assert steady(again) == steady(whole)


def test_a_change_that_is_killed_after_each_step_is_made_by_the_next_apply() -> None:
    """From a document to another that takes away, moves and adds: links, peers, addresses, rules, names."""
    with one_host() as one:
        before = twenty(one)
        lines = [line for line in before.splitlines() if not line.startswith("  p3:")]
        after = "\n".join(lines).replace(", p3: 10.8.0.3, p4: 10.8.0.4}", ", p4: 10.8.0.44}")
        after = after.replace("party: {mode: lan", "guests: {mode: lan").replace("10.9.0.", "10.10.0.")
        rule = "acls: [{name: ping, src: ['*'], dst: ['*'], proto: icmp}], addresses: {here: 10.8.0.1"
        after = after.replace("addresses: {here: 10.8.0.1", rule) + "\n"

        def reach(text: str) -> None:
            code, said = one.apply(text, "--engine", "wireguard-go")
            assert code == 0, said

        reach(before)
        one.write(after)
        code, said = killed_after(one, 0)
        assert code == 0, said
        steps = int(said.rpartition("steps ")[2])
        assert steps >= 12, said
        assert "  - " in said
        whole = steady(one.host.run("sh", "-c", LOOK))
        for stop in range(1, steps + 1):
            reach(before)
            one.write(after)
            code, said = killed_after(one, stop)
            assert code == 137, (stop, said)
            reach(after)
            assert one.netctl("apply", "--yes") == (0, "nothing to change\n"), stop
            assert steady(one.host.run("sh", "-c", LOOK)) == whole, stop


def steady(listing: str) -> list[str]:
    """Without interface numbers, which count up, and what the kernel adds of itself when it gets to it."""
    return sorted(
        line.partition(": ")[2] or line
        for line in listing.splitlines()
        if "scope link" not in line and not line.startswith("fe80:")
    )


@pytest.fixture
def pair() -> Iterator[tuple[One, Host]]:
    """A host and a peer that nobody here configures but `wg`."""
    with one_host() as one:
        peer = Host("peer")
        try:
            join(one.host, peer, "192.0.2.1/24", "192.0.2.2/24")
            yield one, peer
        finally:
            peer.close()


def test_an_unchanged_peer_keeps_its_session_and_an_acl_touches_no_tunnel(pair: tuple[One, Host]) -> None:
    one, peer = pair
    peer.run("sh", "-c", "umask 077; cat > /run/key", text=one.other_private)
    own = one.host.run("sh", "-c", f"wg pubkey < {STATE}/wireguard.key").strip()
    peer.run("wireguard-go", "wg0")
    peer.run("wg", "set", "wg0", "listen-port", "51820", "private-key", "/run/key")
    peer.run("wg", "set", "wg0", "peer", own, "endpoint", "192.0.2.1:51820", "allowed-ips", "10.8.0.1/32")
    peer.run("sh", "-c", "ip addr add 10.8.0.2/24 dev wg0 && ip link set wg0 up")
    assert one.apply(one.good, "--engine", "wireguard-go")[0] == 0
    wait_for("a session", lambda: "1 received" in peer.run("ping", "-c1", "-W1", "10.8.0.1", check=False))

    def handshakes() -> dict[str, str]:
        rows = one.host.run("wg", "show", "nctl0", "latest-handshakes").split("\n")
        return dict(row.split("\t") for row in rows if row)

    (key,) = handshakes()
    before = handshakes()[key]
    assert int(before) > 0
    time.sleep(1.1)  # a new handshake would have another second
    third = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="
    wider = one.good.replace("networks:", f'  third: {{wireguard: "{third}"}}\nnetworks:')
    wider = wider.replace("there: 10.8.0.2}", "there: 10.8.0.2, third: 10.8.0.3}")
    ping = "{name: ping, src: ['*'], dst: ['*'], proto: icmp}"
    ssh = "{name: ssh, src: ['*'], dst: ['*'], proto: tcp, ports: [22]}"
    narrow = [
        one.good.replace("addresses:", f"acls: [{rules}], addresses:") for rules in (ping, f"{ping}, {ssh}")
    ]
    steps = [
        ("another peer comes", wider),
        ("another peer moves", wider.replace("10.8.0.3}", "10.8.0.33}")),
        ("another peer goes", one.good),
        ("an ACL comes", narrow[0]),
        ("an ACL changes", narrow[1]),
        ("the ACL goes", one.good),
    ]
    for what, text in steps:
        code, said = one.apply(text)
        assert (code, "applied" in said) == (0, True), (what, said)
        assert handshakes()[key] == before, what
        assert (" peer " in said) == ("peer" in what), (what, said)
    wait_for("it carries", lambda: "1 received" in peer.run("ping", "-c1", "-W2", "10.8.0.1", check=False))
    assert handshakes()[key] == before or time.time() - int(before) > 115, (
        "a session of two minutes is made anew"
    )
