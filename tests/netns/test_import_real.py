"""Three hosts with wg-quick become one document: the same tunnels stand after it as before."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hosts import Host, join, needs_namespaces

pytestmark = [pytest.mark.netns, needs_namespaces]

BIN = Path(sys.executable).parent
NETCTL = str(BIN / "netctl")
OUTSIDE = {"a": "192.0.2.1", "b": "192.0.2.2", "c": "198.51.100.2"}
"""`a` has a cable to each of the others and forwards between them."""
INSIDE = {"a": ("10.9.0.1", "fd00:9::1"), "b": ("10.9.0.2", "fd00:9::2"), "c": ("10.9.0.3", "fd00:9::3")}


@pytest.fixture(scope="module")
def hosts() -> Iterator[dict[str, Host]]:
    made = {name: Host(name) for name in OUTSIDE}
    try:
        join(made["a"], made["b"], "192.0.2.1/24", "192.0.2.2/24", "to-b")
        join(made["a"], made["c"], "198.51.100.1/24", "198.51.100.2/24", "to-c")
        made["b"].run("ip", "route", "add", "default", "via", "192.0.2.1")
        made["c"].run("ip", "route", "add", "default", "via", "198.51.100.1")
        made["a"].run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        yield made
    finally:
        for host in made.values():
            host.close()


def wg_quick(hosts: dict[str, Host], directory: Path) -> None:
    """A mesh as people write it, brought up by wg-quick from /run of each host; copies in `directory`."""
    private = {name: hosts[name].run("wg", "genkey").strip() for name in hosts}
    public = {name: hosts[name].run("wg", "pubkey", text=private[name]).strip() for name in hosts}
    for name, host in hosts.items():
        lines = ["[Interface]", f"PrivateKey = {private[name]}", "ListenPort = 51820"]
        lines.append(f"Address = {INSIDE[name][0]}/24, {INSIDE[name][1]}/64")
        for other in hosts:
            if other != name:
                four, six = INSIDE[other]
                lines += ["[Peer]", f"PublicKey = {public[other]}", f"AllowedIPs = {four}/32, {six}/128"]
                lines += [f"Endpoint = {OUTSIDE[other]}:51820"]
        text = "\n".join(lines) + "\n"
        (directory / name).mkdir()
        (directory / name / "wg0.conf").write_text(text)
        host.run("sh", "-c", "umask 077; cat > /run/wg0.conf", text=text)
        host.run(
            "env", f"WG_QUICK_USERSPACE_IMPLEMENTATION={BIN / 'netctl-wg'}", "wg-quick", "up", "/run/wg0.conf"
        )


def tunnels(host: Host, link: str) -> dict[str, tuple[str, frozenset[str]]]:
    """By peer: its endpoint and what it may send from."""
    endpoints = dict(line.split("\t") for line in host.run("wg", "show", link, "endpoints").splitlines())
    allowed = dict(line.split("\t") for line in host.run("wg", "show", link, "allowed-ips").splitlines())
    return {key: (endpoints[key], frozenset(allowed[key].split())) for key in allowed}


def everybody_answers(hosts: dict[str, Host]) -> None:
    for name, host in hosts.items():
        for address in (address for other in hosts if other != name for address in INSIDE[other]):
            host.run("ping", "-c", "1", "-w", "10", address)


def test_the_same_tunnels_stand_after_as_before(hosts: dict[str, Host], tmp_path: Path) -> None:
    fleet = tmp_path / "fleet"
    fleet.mkdir()
    wg_quick(hosts, fleet)
    everybody_answers(hosts)
    before = {name: tunnels(host, "wg0") for name, host in hosts.items()}
    document = tmp_path / "networks.yaml"
    said = subprocess.run(
        [NETCTL, "import", str(fleet), "--to", str(document)], capture_output=True, text=True, check=True
    )
    assert "differ" not in said.stdout + said.stderr
    for name, host in hosts.items():  # the steps of docs/fleets.md
        host.run("sh", "-c", "umask 077; wg show wg0 private-key > /var/lib/netctl/wireguard.key")
        host.run(NETCTL, "keys", "init")
        host.run("sh", "-c", "cat > /etc/netctl/networks.yaml", text=document.read_text())
        host.run("env", f"PATH={BIN}:/usr/sbin:/usr/bin:/sbin:/bin", "wg-quick", "down", "/run/wg0.conf")
        host.run(NETCTL, "apply", "--yes", "--engine", "netctl-wg")
        assert tunnels(host, "nctl0") == before[name]
    everybody_answers(hosts)
    for host in hosts.values():
        assert "no change" in host.run(NETCTL, "plan").lower()


def test_a_live_peer_that_is_called_elsewhere_may_answer_from_where_it_was(hosts: dict[str, Host]) -> None:
    """`a` has two addresses and answers from the one that it always did: WireGuard follows it, nothing rolls back."""
    moved = (
        hosts["b"].run("cat", "/etc/netctl/networks.yaml").replace("192.0.2.1:51820", "198.51.100.1:51820")
    )
    hosts["b"].run("sh", "-c", "cat > /etc/netctl/networks.yaml", text=moved)
    assert "198.51.100.1:51820" in hosts["b"].run(NETCTL, "apply", "--yes", "--engine", "netctl-wg")
    everybody_answers(hosts)
    assert "no change" in hosts["b"].run(NETCTL, "plan").lower()
