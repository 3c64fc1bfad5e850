"""A network of very many members at several mediators: messages, bytes and processor time of each kind of event.

Run: python bench/thousands.py [--members N] [--mediators M] [--shape one|spokes]. The mediators' real cores run in this
process, on a bus that loses nothing; members are the messages that they send. No TLS, no sockets, no store, so the
processor time is that of the cores alone. `one`: one network in which all see one another, and each member talks to
--interest others. `spokes`: all but three members talk to those three alone. Bytes are those of frames and of messages
on the bus, without TLS. A change counts what all mediators send.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mediator.core import busmessages as b
from mediator.core import effects as fx
from mediator.core.hub import Hub
from netctl.config import load_document
from netctl.model.addresses import SocketAddress
from netctl.model.document import Document
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.session.login import make_login
from netctl.wire import control as w
from netctl.wire.frame import HEADER_LEN

SIGNER = Ed25519PrivateKey.generate()
PIN = IdentityKey(SIGNER.public_key().public_bytes_raw())
SOURCE = SocketAddress("203.0.113.1", 5555)
SERVERS = 3
CHANGES = 20
"""Events of a kind, of which the mean is printed."""
KNOWS_MOST_S = 0.3
"""After so long the bus has carried what was gathered."""


@dataclass
class Tally:
    """What was sent, and the processor time of all mediators."""

    messages: int = 0
    size: int = 0
    bus_messages: int = 0
    bus_size: int = 0
    cpu_s: float = 0.0


@dataclass
class Place:
    """Where a member is logged in."""

    mediator: int
    number: int
    view: str = ""
    """The digest of its view."""


class Cluster:
    """All mediators, and the members as far as they are logged in."""

    def __init__(
        self, mediators: int, document: Document, private: dict[WireGuardKey, Ed25519PrivateKey]
    ) -> None:
        self.now = 0.0
        self.tally = Tally()
        self.private = private
        self.places: dict[WireGuardKey, Place] = {}
        self.silent: set[int] = set()
        self._number = 0
        self._sealed: dict[tuple[int, int], str] = {}
        self.hubs = [Hub(PIN, SIGNER.sign, bytes(32), generation=1) for _ in range(mediators)]
        for number, hub in enumerate(self.hubs):
            hub.join_bus(bytes([number]) * b.RUN_LEN, f"m{number}", 0.0)
        self.load(document)
        self.pass_time(5.0)

    def load(self, document: Document) -> None:
        """The document comes into force everywhere. All choose the same addresses, so no store is needed."""
        for number, hub in enumerate(self.hubs):
            self.run(number, hub.load(document, document.mediators[0], 0))

    def run(self, mediator: int, effects: Iterable[fx.Effect]) -> None:
        """Count what is sent, and put on the bus what is for it."""
        hub, tally = self.hubs[mediator], self.tally
        for effect in effects:
            match effect:
                case fx.Send(_, message):
                    tally.messages += 1
                    tally.size += len(w.encode(message)) + HEADER_LEN
                case fx.Deliver(numbers, payloads):
                    tally.messages += len(numbers) * len(payloads)
                    tally.size += len(numbers) * sum(len(payload) + HEADER_LEN for payload in payloads)
                    if len(numbers) == 1 and b'"sealed"' in payloads[-1][:20]:
                        sealed = w.decode(payloads[-1])
                        assert isinstance(sealed, w.Sealed)
                        self._sealed[mediator, numbers[0]] = sealed.digest
                case fx.Store() as wanted:
                    stored = hub.stored(wanted.leases, wanted.ports, wanted.pairs, wanted.resting, 0)
                    self.run(mediator, stored)
                case fx.Publish(message):
                    if not isinstance(message, b.Beat):
                        tally.bus_messages += 1
                        tally.bus_size += len(b.encode(message))
                    if mediator not in self.silent:
                        for other, there in enumerate(self.hubs):
                            if other != mediator and other not in self.silent:
                                self.run(other, there.heard(message, self.now))
                case _:
                    pass

    def pass_time(self, seconds: float) -> None:
        """What is gathered for the bus goes out, in steps of its own interval."""
        end = self.now + seconds
        while self.now < end:
            self.now += 0.05
            for number, hub in enumerate(self.hubs):
                due = hub.next_bus_timer()
                if number not in self.silent and due is not None and due <= self.now:
                    self.run(number, hub.handle_bus_timer(self.now))

    def log_in(self, key: WireGuardKey, mediator: int, view: str = "") -> None:
        """A member logs in at a mediator; with the digest of its view, only the seal is sent."""
        self._number += 1
        number, nonce, private = self._number, os.urandom(32), self.private[key]
        own = IdentityKey(private.public_key().public_bytes_raw())
        login = make_login(PIN, nonce, os.urandom(32), own, key, private.sign)
        login = msgspec.structs.replace(login, minor=w.MINOR_VERSION, view=view)
        hub = self.hubs[mediator]
        began = time.process_time()
        self.run(mediator, hub.connected(number, SOURCE, nonce, self.now))
        self.run(mediator, hub.received(number, w.encode(login), self.now, 0))
        self.tally.cpu_s += time.process_time() - began
        self.places[key] = Place(mediator, number, self._sealed[mediator, number])

    def log_out(self, key: WireGuardKey) -> None:
        """A member's connection is lost."""
        place = self.places.pop(key)
        self.run(place.mediator, self.hubs[place.mediator].disconnected(place.number))

    def ask(self, key: WireGuardKey, message: w.Message) -> None:
        """A member sends a message."""
        place = self.places[key]
        payload = w.encode(message)
        self.run(place.mediator, self.hubs[place.mediator].received(place.number, payload, self.now, 0))


def row(name: str, tally: Tally, count: int, *, cpu_s: float | None = None) -> None:
    """Print the mean of an event."""
    spent = tally.cpu_s if cpu_s is None else cpu_s
    print(
        f"| {name} | {tally.messages / count:,.1f} | {tally.size / count:,.0f} | {tally.bus_messages / count:,.1f} "
        f"| {tally.bus_size / count:,.0f} | {spent / count * 1e3:,.2f} |",
        flush=True,
    )


def document(keys: dict[WireGuardKey, Ed25519PrivateKey], spokes: bool) -> Document:
    """One network of all these members."""
    members = {
        f"m{number}": {
            "wireguard": str(key),
            "identity": str(IdentityKey(private.public_key().public_bytes_raw())),
            "groups": ["servers" if number < SERVERS else "sensors"],
        }
        for number, (key, private) in enumerate(keys.items())
    }
    network: dict[str, object] = {"mode": "routed", "ipv4": "10.0.0.0/14", "members": ["*"]}
    if spokes:
        network["acls"] = [{"name": "report", "src": ["group:sensors"], "dst": ["group:servers"]}]
    mediator = {"url": "netctl://192.0.2.1:8443", "identity": [str(PIN)], "relayPorts": "20000-65535"}
    text = {
        "apiVersion": "netctl/v1",
        "id": "thsd-0001",
        "mediators": [mediator],
        "members": members,
        "networks": {"all": network},
    }
    return load_document(json.dumps(text)).document


def without(document: Document, key: WireGuardKey) -> Document:
    """The document before the member with this key was written into it."""
    members = {name: one for name, one in document.members.items() if one.wireguard != key}
    networks = {
        name: replace(network, member_names=tuple(one for one in network.member_names if one in members))
        for name, network in document.networks.items()
    }
    return replace(document, members=members, networks=networks)


def measure(members: int, mediators: int, shape: str, interest: int) -> None:
    """One cluster, and every event at it."""
    chance = random.Random(1)
    keys = {WireGuardKey(chance.randbytes(32)): Ed25519PrivateKey.generate() for _ in range(members + 1)}
    new = next(reversed(keys))
    whole = document(keys, shape == "spokes")
    present = without(whole, new)
    began = time.process_time()
    cluster = Cluster(mediators, present, keys)
    print(
        f"{members:,} members, {mediators} mediators, {shape}: start {time.process_time() - began:.1f} s",
        flush=True,
    )
    print("| event | messages | bytes | on the bus | bytes there | processor time, ms |")
    print("|---|---|---|---|---|---|")
    everybody = [key for key in keys if key != new]
    servers, others = everybody[:SERVERS], everybody[SERVERS:]

    def tallied() -> Tally:
        cluster.pass_time(KNOWS_MOST_S)
        cluster.tally = Tally()
        return cluster.tally

    first = others[0]
    tally = tallied()
    cluster.log_in(first, 0)
    row("login of a host that has no view", tally, 1)
    digest = {first: cluster.places[first].view}
    tally = tallied()
    for number, key in enumerate(others[1:], 1):
        known = digest.get(first, "") if shape == "one" else ""
        cluster.log_in(key, number % mediators, known)
        if number % 1000 == 0:
            cluster.pass_time(0.1)
    cluster.pass_time(KNOWS_MOST_S)
    row(
        "login, mean of all" + ("" if shape == "spokes" else " (with the view that it has)"),
        tally,
        len(others) - 1,
    )
    for number, key in enumerate(servers):
        cluster.log_in(key, number % mediators, digest[first] if shape == "one" else "")
    tally, began = tallied(), time.process_time()
    if shape == "one":
        for key in everybody:
            cluster.ask(key, w.Interest([str(other) for other in chance.sample(everybody, interest)]))
        row(f"interest in {interest} members", tally, len(everybody), cpu_s=time.process_time() - began)
    else:
        for key in servers:
            for start in range(0, w.MAX_INTEREST, 512):
                cluster.ask(key, w.Interest([str(other) for other in others[start : start + 512]]))
        row("interest of a server in 1,024 sensors", tally, SERVERS, cpu_s=time.process_time() - began)
    changing = others[1 : CHANGES + 1]
    for name, online in (("a member goes", False), ("a member comes, its login included", True)):
        tally, began = tallied(), time.process_time()
        for key in changing:
            if online:
                cluster.log_in(key, chance.randrange(mediators), digest[first] if shape == "one" else "")
            else:
                cluster.log_out(key)
            cluster.pass_time(0.2)
        row(name, tally, CHANGES, cpu_s=time.process_time() - began)
    if shape == "spokes":
        tally, began = tallied(), time.process_time()
        cluster.log_out(servers[0])
        cluster.pass_time(KNOWS_MOST_S)
        row("a server goes", tally, 1, cpu_s=time.process_time() - began)
        cluster.log_in(servers[0], 0)
    tally, began = tallied(), time.process_time()
    cluster.ask(servers[1], w.Interest(all=True))
    row(
        "somebody looks at all" + ("" if shape == "one" else ", at a server"),
        tally,
        1,
        cpu_s=time.process_time() - began,
    )
    tally, began = tallied(), time.process_time()
    cluster.load(whole)
    row("a new member in the document", tally, 1, cpu_s=time.process_time() - began)
    tally, began = tallied(), time.process_time()
    cluster.silent.add(mediators - 1)
    cluster.pass_time(4.0)
    row("a mediator falls silent", tally, 1, cpu_s=time.process_time() - began)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--members", type=int, default=100_000)
    parser.add_argument("--mediators", type=int, default=8)
    parser.add_argument("--shape", choices=["one", "spokes"], default="one")
    parser.add_argument("--interest", type=int, default=10)
    arguments = parser.parse_args()
    measure(arguments.members, arguments.mediators, arguments.shape, arguments.interest)


if __name__ == "__main__":
    main()
