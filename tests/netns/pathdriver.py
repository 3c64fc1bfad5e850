"""Small programs around the real path manager for `test_punch_real`: a mediator, and a member.

The control connection is JSON lines over TCP, since what is tested here are paths. Everything else is real:
wireguard-go, raw sockets, the relay, STUN.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from mediator.core.relay_grants import grant
from mediator.core.relay_table import RelayTable
from mediator.shell.relayserver import RelayServer
from netctl.engine.links.interfaces import local_addresses
from netctl.engine.port.sharedport import SharedPort, open_shared_port
from netctl.model.addresses import SocketAddress
from netctl.model.hoststate import PeerStatus
from netctl.model.keys import WireGuardKey
from netctl.paths.effects import (
    Effect,
    LookSoon,
    PathChanged,
    SendControl,
    SendDatagram,
    SendThrough,
    SetEndpoint,
)
from netctl.paths.manager import PathManager
from netctl.wire import stun
from netctl.wire.control import Candidate, Introduction, Punch, RelayGrant

CONTROL_PORT = 7443
STUN_PORTS = (3478, 3479)
RELAY_PORTS = range(40000, 40004)
SECRET = bytes(range(32))


class Lines:
    """JSON lines on a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._rest = b""

    def send(self, value: Any) -> None:
        self.socket.sendall(json.dumps(value).encode() + b"\n")

    def receive(self) -> list[Any]:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]


def mediator(address: str) -> None:
    """STUN, relay, and candidates handed from one to the other.

    Bound to one address: this host has several, and must answer from the one that was asked.
    """
    threading.Thread(
        target=RelayServer(address, RELAY_PORTS, RelayTable(SECRET, os.urandom(32), RELAY_PORTS)).serve,
        daemon=True,
    ).start()
    stuns = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in STUN_PORTS]
    for sock, port in zip(stuns, STUN_PORTS, strict=True):
        sock.bind((address, port))
    listener = socket.create_server(("0.0.0.0", CONTROL_PORT))
    print("ready", flush=True)
    links: dict[str, Lines] = {}
    offers: dict[tuple[str, str], Any] = {}
    waiting: list[tuple[str, str]] = []
    anonymous: list[Lines] = []
    while True:
        everyone = [*links.values(), *anonymous]
        readable, _, _ = select.select([listener, *stuns, *(link.socket for link in everyone)], [], [])
        for sock in readable:
            if sock is listener:
                anonymous.append(Lines(listener.accept()[0]))
            elif sock in stuns:
                data, source = sock.recvfrom(2000)
                answer = stun.respond(data, SocketAddress.of(*source))
                if answer:
                    sock.sendto(answer, source)
            else:
                link = next(link for link in everyone if link.socket is sock)
                for message in link.receive():
                    if "hello" in message:
                        links[message["hello"]] = link
                        anonymous.remove(link)
                        continue
                    own = next(key for key, other in links.items() if other is link)
                    if message["what"] == "RelayRequest":
                        waiting.append((own, message["peer"]))
                    else:
                        offers[own, message["peer"]] = message
                        if message["peer"] in links:
                            introduce(links, offers, own, message["peer"])
        for own, peer in [pair for pair in waiting if set(pair) <= links.keys()]:
            waiting.remove((own, peer))
            order = sorted((own, peer))
            mine, theirs = RELAY_PORTS[order.index(own)], RELAY_PORTS[order.index(peer)]
            given = grant(SECRET, mine, theirs, int(time.time()) + 600)
            grant_message = {"allocation": given.allocation, "key": given.key, "expires_s": given.expires_s}
            links[own].send(
                {"what": "RelayGrant", "peer": peer, "address": f"{address}:{theirs}"} | grant_message
            )


def introduce(links: dict[str, Lines], offers: dict[tuple[str, str], Any], own: str, peer: str) -> None:
    """Candidates to the other; both in one round: punch."""
    offer, back = offers[own, peer], offers.get((peer, own))
    links[peer].send(offer | {"what": "Introduction", "peer": own})
    if back is not None and back["round"] == offer["round"]:
        for one, other in ((own, peer), (peer, own)):
            links[one].send({"what": "Punch", "peer": other, "after_ms": 50})


def understand(message: Any) -> Introduction | Punch | RelayGrant:
    """A line of the mediator as the message of `netctl.wire.control`."""
    kind = message.pop("what")
    if kind == "Introduction":
        candidates = [
            Candidate(kind=entry["kind"], address=entry["address"]) for entry in message["candidates"]
        ]
        return Introduction(peer=message["peer"], round=message["round"], candidates=candidates)
    return Punch(**message) if kind == "Punch" else RelayGrant(**message)


class Member:
    """One member: its engine, wireguard-go or netctl-wg, is there already, on wg0."""

    def __init__(self, mediator_address: str, peer: str, engine: str) -> None:
        private = base64.b64decode(Path("/run/key").read_text())
        self.own = wg("show", "wg0", "public-key").strip()
        self.peer = WireGuardKey.parse(peer)
        self.port: SharedPort = open_shared_port(engine, "wg0", 51820)
        self.link: Lines | None = Lines(socket.create_connection((mediator_address, CONTROL_PORT)))
        self.link.send({"hello": self.own})
        self.paths = PathManager(
            WireGuardKey.parse(self.own), private, os.urandom, epoch_s=time.time() - time.monotonic()
        )
        self.started = time.monotonic()
        self.history: list[tuple[float, str]] = []
        self.look_at = self.started
        """When to look at the engine."""
        self.servers = [SocketAddress.of(mediator_address, port) for port in STUN_PORTS]

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendDatagram(destination, data, ttl, whole):
                    self.port.send(destination, data, ttl, whole=whole)
                case SendThrough(key, count):
                    for _ in range(count):
                        self.through(key)
                case LookSoon(after_s):
                    self.look_at = min(self.look_at, time.monotonic() + after_s)
                case SetEndpoint(key, endpoint):
                    wg(
                        *("set", "wg0", "peer", str(key), "persistent-keepalive", "25"),
                        *("endpoint", str(endpoint)),
                    )
                case SendControl(message) if self.link is not None:
                    body = msgspec.to_builtins(message)
                    self.link.send(body | {"what": type(message).__name__})
                case PathChanged(_, status):
                    self.history.append((time.monotonic() - self.started, status.kind))

    def run(self) -> None:
        now = time.monotonic()
        hosts = [Candidate(kind="host", address=str(SocketAddress.of(ip, 51820))) for ip in local_addresses()]
        self.perform(self.paths.set_local(hosts, now))
        self.perform(self.paths.set_stun(self.servers, now))
        self.perform(self.paths.set_peers([self.peer], now))
        self.perform(self.paths.control_up(now))
        while True:
            due = min(self.look_at, self.paths.next_timer() or self.look_at)
            waiting: list[Any] = [self.port] if self.link is None else [self.port, self.link.socket]
            readable, _, _ = select.select(waiting, [], [], max(0.0, due - time.monotonic()))
            now = time.monotonic()
            if self.port in readable:
                for data, source in self.port.receive():
                    self.perform(self.paths.handle_datagram(data, source, now))
            if self.link is not None and self.link.socket in readable:
                self.hear(now)
            self.perform(self.paths.handle_timer(now))
            if now >= self.look_at:
                self.look_at = now + 0.5
                self.observe(now)

    def through(self, key: WireGuardKey) -> None:
        """A packet into the tunnel, to the first of the peer's allowed addresses."""
        allowed = dict(line.split("\t") for line in wg("show", "wg0", "allowed-ips").splitlines())[str(key)]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as knocker, contextlib.suppress(OSError):
            knocker.sendto(b"", (allowed.split()[0].partition("/")[0], 9))

    def hear(self, now: float) -> None:
        assert self.link is not None
        try:
            for message in self.link.receive():
                self.perform(self.paths.handle_message(understand(message), now))
        except ConnectionError:
            self.link = None
            self.perform(self.paths.control_down(now))

    def observe(self, now: float) -> None:
        for line in wg("show", "wg0", "dump").splitlines()[1:]:
            key, _, endpoint, _, handshake, received, sent, _ = line.split("\t")
            address = None if endpoint == "(none)" else SocketAddress.parse(endpoint)
            status = PeerStatus(address, float(handshake), int(received), int(sent))
            self.perform(self.paths.observe(WireGuardKey.parse(key), status, now))
        status_now = self.paths.status()[self.peer]
        report: dict[str, object] = {
            "kind": status_now.kind,
            "endpoint": str(status_now.endpoint),
            "rtt_ms": status_now.rtt_ms,
        }
        report |= {"history": self.history, "tried": status_now.tried}
        Path("/run/status.new").write_text(json.dumps(report))
        Path("/run/status.new").rename("/run/status.json")


def wg(*argv: str) -> str:
    """The stock tool."""
    return subprocess.run(["wg", *argv], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    if sys.argv[1] == "mediator":
        mediator(sys.argv[2])
    else:
        Member(*sys.argv[2:5]).run()
