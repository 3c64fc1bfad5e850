"""Members with one document on cables of any MTU, without agents: what the engine makes of it, with real packets."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.support.hosts import Host, join
from tests.support.patience import BUSY_S, wait_for

FILE = "/etc/netctl/networks.yaml"
APPLY = """
import sys, pathlib
from netctl.config import load_document, resolve
from netctl.engine import open_engine, apply_plan
from netctl.plan import diff, describe
document = load_document(open('/etc/netctl/networks.yaml').read()).document
state = pathlib.Path('/var/lib/netctl')
live = frozenset(member.wireguard for member in document.members.values())
engine = open_engine(state / 'wireguard.key', kind='auto', state_dir=state)
desired = resolve(document, sys.argv[1], None, live=live).state
outcome = apply_plan(engine, desired)
left = describe(diff(desired, engine.read()))
engine.close()
print('OUTCOME', outcome.error, left)
"""
FRAGMENTS = ("FragCreates", "ReasmReqds")
TRANSFER = r"""
import socket, sys, threading
size = int(sys.argv[2])
host, port = sys.argv[1], 7070
if sys.argv[3] == 'serve':
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    server = socket.create_server((host, port), family=family)
    print('up', flush=True)
    connection, _ = server.accept()
    def give():
        connection.sendall(bytes(size)); connection.shutdown(socket.SHUT_WR)
    giver = threading.Thread(target=give); giver.start()
    got = 0
    while data := connection.recv(1 << 16): got += len(data)
    giver.join()
    mss = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
else:
    connection = socket.create_connection((host, port), 60)
    def give():
        connection.sendall(bytes(size)); connection.shutdown(socket.SHUT_WR)
    giver = threading.Thread(target=give); giver.start()
    got = 0
    while data := connection.recv(1 << 16): got += len(data)
    giver.join()
    mss = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
assert got == size, got
print(mss)
"""
ANSWER = """
import select, socket, sys
def listen(address, port):
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    return socket.create_server((address, port), family=family)
servers = [listen(sys.argv[1], int(port)) for port in sys.argv[2:]]
print('up', flush=True)
while True:
    for server in select.select(servers, [], [])[0]:
        connection, peer = server.accept()
        connection.sendall(peer[0].encode()); connection.close()
"""
CALL = """
import socket, sys
try:
    connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)
    connection.settimeout(60)  # what has come so far is answered, when the other end gets a core
    print(connection.recv(100).decode())
except OSError as error:
    print('no:', error)
"""
TCP_TIMESTAMPS = 12


class Members:
    """Hosts by name, each with a WireGuard key of its own."""

    def __init__(self, names: Sequence[str]) -> None:
        self.hosts: dict[str, Host] = {}
        self.outside: dict[str, str] = {}
        """The underlay address of each that `internet` has connected."""
        keys = {name: X25519PrivateKey.generate() for name in names}
        self.private = {n: base64.b64encode(key.private_bytes_raw()).decode() for n, key in keys.items()}
        self.public = {
            name: base64.b64encode(key.public_key().public_bytes_raw()).decode() for name, key in keys.items()
        }

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def add(self, name: str) -> Host:
        """A host; one with a key when it is a member."""
        host = self.hosts[name] = Host(name)
        if name in self.private:
            host.run("sh", "-c", "umask 077; cat > /var/lib/netctl/wireguard.key", text=self.private[name])
        return host

    def endpoint(self, name: str) -> str:
        """What a document says of a member that `internet` has connected."""
        return f'endpoints: ["{self.outside[name]}:51820"]'

    def close(self) -> None:
        """End all hosts."""
        for host in self.hosts.values():
            host.close()

    def document(self, members: Mapping[str, str], networks: str) -> str:
        """A document: what is said of each member beside its key, and the networks."""
        lines = ["apiVersion: netctl/v1", "members:"]
        lines += [f'  {name}: {{wireguard: "{self.public[name]}", {more}}}' for name, more in members.items()]
        return "\n".join(lines) + f"\nnetworks:\n{networks}"

    def apply(self, text: str, *names: str) -> None:
        """Bring members to the document; all that are hosts when none is named."""
        for name in names or [name for name in self.hosts if name in self.public]:
            said = self.try_apply(text, name)
            assert said == "OUTCOME None []", f"{name}: {said}"

    def try_apply(self, text: str, name: str) -> str:
        """The same for one member; how it ended."""
        self[name].run("sh", "-c", f"cat > {FILE}", text=text)
        return self[name].python(APPLY, name).strip().splitlines()[-1]


@contextmanager
def members(*names: str) -> Iterator[Members]:
    """Keys for these names, and an end to all hosts."""
    made = Members(names)
    try:
        yield made
    finally:
        made.close()


def internet(there: Members, *names: str) -> Host:
    """Hosts of these names, each with a cable to one router between them."""
    router = there.add("internet")
    router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    for number, name in enumerate(names, 1):
        host = there.add(name)
        join(host, router, f"198.18.{number}.2/24", f"198.18.{number}.1/24", f"eth{number}")
        host.run("ip", "route", "add", "198.18.0.0/15", "via", f"198.18.{number}.1")
        there.outside[name] = f"198.18.{number}.2"
    return router


def fragments(host: Host) -> dict[str, int]:
    """How many fragments this host has made and taken, of IPv4 and IPv6."""
    found = {}
    rows = [line.split() for line in host.run("cat", "/proc/net/snmp").splitlines() if line.startswith("Ip:")]
    counts = dict(zip(*rows, strict=True))
    found.update({f"Ip{name}": int(counts[name]) for name in FRAGMENTS})
    for line in host.run("cat", "/proc/net/snmp6").splitlines():
        name, value = line.split()
        if name in {f"Ip6{kind}" for kind in FRAGMENTS}:
            found[name] = int(value)
    return found


def transfer(one: Host, two: Host, address: str, size: int = 1 << 20) -> tuple[int, int]:
    """So many bytes over TCP in both directions at once; the MSS that each end has at last, without options."""
    server = two.start(sys.executable, "-c", TRANSFER, address, str(size), "serve")
    assert server.stdout is not None
    assert server.stdout.readline() == "up\n"
    mine = one.run(sys.executable, "-c", TRANSFER, address, str(size), "ask", timeout=BUSY_S)
    theirs, _ = server.communicate(timeout=BUSY_S)
    return int(mine) + TCP_TIMESTAMPS, int(theirs) + TCP_TIMESTAMPS


def call(host: Host, address: str, port: int) -> str | None:
    """Connect; as whom the other end sees this host, None when it does not come through within two seconds."""
    said = host.run(sys.executable, "-c", CALL, address, str(port)).strip()
    return None if said.startswith("no:") else said


def answered(host: Host, address: str, port: int) -> str:
    """The same where it is to come through, as long as a busy machine needs for that."""
    found: list[str] = []

    def comes_through() -> bool:
        found.extend(filter(None, [call(host, address, port)]))
        return bool(found)

    wait_for(f"{host.name} reaches {address}, port {port}", comes_through)
    return found[0]


@contextmanager
def serving(host: Host, address: str, *ports: int) -> Iterator[None]:
    """Answer on these ports of a host with the address that the caller has here."""
    server = host.start(sys.executable, "-c", ANSWER, address, *map(str, ports))
    assert server.stdout is not None
    assert server.stdout.readline() == "up\n"
    try:
        yield
    finally:
        server.kill()
        server.communicate()


def pings(host: Host, address: str, *options: str, tries: int = 10) -> bool:
    """Whether one of so many pings is answered: a tunnel that opens may lose the first, and a busy machine some."""
    ping = ("ping", "-n", "-c1", "-W2", *options, address)
    return any("1 received" in host.run(*ping, check=False) for _ in range(tries))


def link(host: Host, name: str) -> dict[str, object]:
    """What `ip link` says of it."""
    found: dict[str, object] = json.loads(host.run("ip", "-j", "-s", "link", "show", name))[0]
    return found
