"""What goes wrong gets one clear line that says what to do, exit 1, and nothing half-done. Real commands."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from netctl.lab.internet import DOCUMENT_PATH, RUN_PATH, STATE_PATH, program
from netctl.lab.namespaces import Node
from tests.support.lablife import lab_holder

pytestmark = pytest.mark.netns

LISTEN = """
import socket, sys
kind = socket.SOCK_DGRAM if sys.argv[1] == "udp" else socket.SOCK_STREAM
server = socket.socket(socket.AF_INET6, kind)
server.bind(("::", int(sys.argv[2])))
if kind == socket.SOCK_STREAM:
    server.listen()
print("ready", flush=True)
sys.stdin.read()
"""
MEDIATOR_STATE = "/run/mediator"


class Host:
    """One host without any network, with its keys and a document that names it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        said = self.run("netctl", "keys", "init")
        assert said.returncode == 0, said.stderr
        wireguard = re.search(r'wireguard: "([^"]+)"', said.stdout)
        identity = re.search(r'identity: "(ed25519:[^"]+)"', said.stdout)
        assert wireguard is not None
        assert identity is not None
        self.wireguard, self.identity = wireguard.group(1), identity.group(1)

    def run(
        self, name: str, *arguments: str, under: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        return self.node.attempt([*under, program(name), *arguments])

    def document(self, mediator: str | None = None) -> None:
        """Write one; `mediator` is the identity that it pins, None: no mediator at all."""
        entry = f'\n  - {{url: "netctl://mediator.example.net:8443", identity: ["{mediator}"]}}'
        self.node.write(
            DOCUMENT_PATH,
            f"""apiVersion: netctl/v1
mediators: {entry if mediator else "[]"}
members:
  alone: {{wireguard: "{self.wireguard}", identity: "{self.identity}"}}
networks:
  lan: {{mode: lan, ipv4: 10.1.2.0/24, members: ["*"], addresses: {{alone: 10.1.2.3}}}}
""",
        )

    def links(self) -> set[str]:
        return {line.split()[0] for line in self.node.run(["ip", "-br", "link"]).splitlines()}


@pytest.fixture
def host() -> Iterator[Host]:
    with lab_holder() as holder:
        bare = holder.add_node("alone", "127.0.0.1\tlocalhost mediator.example.net\n")
        places = {"NETCTL_CONFIG": DOCUMENT_PATH, "NETCTL_STATE": STATE_PATH, "NETCTL_RUN": RUN_PATH}
        yield Host(Node(holder, bare.name, bare.pid, places))


@contextmanager
def in_use(node: Node, kind: str, port: int) -> Iterator[None]:
    with node.popen([sys.executable, "-I", "-c", LISTEN, kind, str(port)]) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
        process.stdin.close()


def refused(done: subprocess.CompletedProcess[str], *says: str, status: int = 1) -> None:
    """That exit status, nothing on stdout, and the last line of the talk says all of this."""
    assert done.returncode == status, done
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert all(word in last for word in says), done.stderr


def test_no_document(host: Host) -> None:
    refused(host.run("netctl", "apply", "--yes"), "there is no /run/lab/etc/networks.yaml", "--config")


def test_a_broken_document_is_named_with_line_and_column(host: Host) -> None:
    host.node.write(DOCUMENT_PATH, "apiVersion: netctl/v1\nmembers: {}\nnetworks: {lan: {mode: lam}}\n")
    done = host.run("netctl", "apply", "--yes")
    refused(done, "is not valid; nothing was changed")
    assert f"{DOCUMENT_PATH}:3:" in done.stderr


def test_a_missing_key(host: Host) -> None:
    refused(
        host.run("netctl", "--state", "/run/none", "agent"), "/run/none/wireguard.key", "netctl keys init"
    )


def test_no_permission(host: Host) -> None:
    host.document()
    # A user namespace of its own: all powers over this host's network are gone.
    refused(host.run("netctl", "apply", "--yes", under=("unshare", "--user")), "needs root", "sudo")
    assert host.links() == {"lo"}


def test_a_port_in_use_leaves_nothing_half_done(host: Host) -> None:
    host.document()
    with in_use(host.node, "udp", 51820):
        done = host.run("netctl", "apply", "--yes")
        # 3: the guards, which come before the link, were there and are taken back.
        refused(done, "51820 is in use", "listenPort", "everything is as it was", status=3)
        assert host.links() == {"lo"}
        assert "netctl" not in host.node.run(["nft", "list", "tables"])
        assert host.node.run(["ip", "route", "show", "proto", "201"]) == ""
    assert host.run("netctl", "apply", "--yes").returncode == 0
    assert "nctl0" in host.links()
    assert host.run("netctl", "apply", "--yes").stdout == "nothing to change\n"
    assert host.run("netctl", "down", "--yes").returncode == 0
    assert host.links() == {"lo"}


def test_an_unreachable_mediator(host: Host) -> None:
    host.document(mediator=host.identity)
    host.node.spawn([program("netctl"), "agent"], "/run/lab/log")
    host.node.run(["sh", "-c", f"until test -S {RUN_PATH}/agent.sock; do sleep 0.1; done"])
    refused(host.run("netctl", "apply", "--yes"), "mediator", "nothing was changed")
    assert host.links() == {"lo"}


def test_the_mediator_without_its_key_and_with_its_port_in_use(host: Host) -> None:
    host.document(mediator=host.identity)
    serve = ("serve", "--document", DOCUMENT_PATH, "--state", MEDIATOR_STATE)
    refused(host.run("netctl-mediator", *serve), "no identity", "netctl-mediator init")
    identity = re.search(
        r"ed25519:[\w+/=]+", host.run("netctl-mediator", "init", "--state", MEDIATOR_STATE).stdout
    )
    assert identity is not None
    refused(host.run("netctl-mediator", *serve), identity.group())
    host.document(mediator=identity.group())
    with in_use(host.node, "tcp", 8443):
        refused(host.run("netctl-mediator", *serve), "cannot listen on TCP port 8443", "another port")
