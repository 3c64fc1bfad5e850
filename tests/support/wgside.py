"""One WireGuard interface on a test host, of any implementation, driven by the stock `wg`."""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path

from netctl.lab.pinging import pinged
from netctl.tunnel.primitives import public_key
from tests.support.hosts import Host
from tests.support.processes import EVERY

OURS = str(Path(sys.executable).with_name("netctl-wg"))
GO = "wireguard-go"
KERNEL = "kernel"
LINK = "wgr0"
PORT = 51930


def text(key: bytes) -> str:
    return base64.b64encode(key).decode()


class Side:
    """One interface of one program on one host."""

    def __init__(self, host: Host, program: str, number: int) -> None:
        self.host, self.number, self.private = host, number, os.urandom(32)
        if program == KERNEL:
            host.run("ip", "link", "add", LINK, "type", "wireguard")
        else:
            host.run(program, LINK)
        host.run("wg", "set", LINK, "private-key", "/dev/stdin", text=text(self.private))
        host.run("wg", "set", LINK, "listen-port", str(PORT))
        host.run("ip", "address", "add", f"10.77.0.{number}/24", "dev", LINK)
        host.run("ip", "address", "add", f"fd77::{number}/64", "dev", LINK, "nodad")
        host.run("ip", "link", "set", LINK, "up")

    @property
    def key(self) -> str:
        return text(public_key(self.private))

    def peer(self, other: Side, outside: str | None, preshared_key: bytes | None = None) -> None:
        allowed = f"10.77.0.{other.number}/32,fd77::{other.number}/128"
        command = ["wg", "set", LINK, "peer", other.key, "allowed-ips", allowed]
        if outside is not None:
            command += ["endpoint", f"{outside}:{PORT}"]
        self.host.run(*command)
        if preshared_key is not None:
            command = ["wg", "set", LINK, "peer", other.key, "preshared-key", "/dev/stdin"]
            self.host.run(*command, text=text(preshared_key))

    def ping(self, other: Side, *options: str) -> int:
        """Two pings over IPv4 and two over IPv6 inside: how many of these four were lost, at most one of two.

        What ping and both interfaces say of a loss is printed, for the report of a test that allows none.
        """
        lost = 0
        for address in (f"10.77.0.{other.number}", f"fd77::{other.number}"):
            found = pinged(self.host.say, address, 2, *options, wait_s=20)
            assert found.lost < 2, found.said
            if found.lost:
                print(
                    found.said,
                    self.host.run("wg", "show", LINK),
                    other.host.run("wg", "show", LINK),
                    sep="\n",
                )
            lost += found.lost
        return lost

    def has_ended(self) -> bool:
        """No interface, no socket, no process."""
        sockets = self.host.run("ls", "/run/wireguard")
        links = self.host.run("ip", "-br", "link")
        processes = self.host.run(*EVERY)
        return LINK not in sockets and LINK not in links and OURS not in processes


def stream(source: Side, target: Side) -> None:
    """2 MB of TCP, which arrive as they were sent."""
    receive = (
        "import hashlib, socket; s = socket.create_server(('10.77.0.%d', 7000)); print('ready', flush=True)\n"
        "c, _ = s.accept(); d = b''\nwhile p := c.recv(1 << 16): d += p\nprint(hashlib.sha256(d).hexdigest())"
    )
    send = (
        "import hashlib, os, socket; d = os.urandom(2 << 20)\n"
        "s = socket.create_connection(('10.77.0.%d', 7000), 60); s.sendall(d); s.close()\n"
        "print(hashlib.sha256(d).hexdigest())"
    )
    with target.host.start(sys.executable, "-c", receive % target.number) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        sent = source.host.run(sys.executable, "-c", send % target.number)
        assert receiver.stdout.read() == sent
