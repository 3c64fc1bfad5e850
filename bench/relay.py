"""The relay against coturn and plain nft forwarding: three namespaces in a row, one pair, 1,400-byte packets.

Run as root: python bench/relay.py [--runs N] [--seconds N] [--turnserver PROGRAM]. Prints Gbit/s that arrived
(medians; the relays take turns), for a sender that goes packet by packet and one that batches (UDP_SEGMENT, as kernel
WireGuard and netctl-wg do). coturn gets the same packets as ChannelData (RFC 8656 §12.4), on one channel, without
authentication; from 4.18 on in its fastest way.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator

from mediator.core.relay_limits import Limits
from mediator.core.relay_table import RelayTable
from mediator.shell.relayserver import UDP_GRO, UDP_SEGMENT, RelayServer
from netctl.wire import relay

PREFIX = f"rb{os.getpid()}"
SECRET = bytes(range(32))
PORTS = range(46200, 46202)
TURN_PORT, NFT_PORT, RECEIVER_PORT = 3478, 7000, 5000
SENDER, LEFT, RIGHT, RECEIVER = "10.1.0.2", "10.1.0.1", "10.2.0.1", "10.2.0.2"
PACKET = struct.pack("<I", 4) + bytes(1396)
BATCH = 40
BUFFER = 8 << 20
UNLIMITED = 1e12
KINDS = ("netctl", "coturn", "nft")
TURNSERVER = "BENCH_TURNSERVER"
"""Environment variable with coturn's program, for child processes."""
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33


def member(port: int) -> socket.socket:
    """A client's socket."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("0.0.0.0", port))
    for option in (_SO_RCVBUFFORCE, _SO_SNDBUFFORCE):
        sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)
    sock.settimeout(5)
    return sock


def bind(sock: socket.socket, host: str, own: int, peer: int) -> None:
    """Bind at netctl's relay, by the four messages of a binding."""
    right = relay.Allocation(own, peer, int(time.time()) + 600)
    key = right.key(SECRET)
    sock.sendto(relay.seal(relay.Bind(right, b"t" * 8), key), (host, peer))
    cookie = relay.open_message(sock.recv(2000), key)
    assert isinstance(cookie, relay.Cookie)
    sock.sendto(relay.seal(relay.Confirm(right, b"u" * 8, cookie.cookie), key), (host, peer))
    assert isinstance(relay.open_message(sock.recv(2000), key), relay.Bound)


def ask_turn(sock: socket.socket, kind: int, attributes: bytes) -> None:
    """Send one TURN request (RFC 8656) and wait for its success."""
    header = struct.pack(">HHI12s", kind, len(attributes), 0x2112A442, os.urandom(12))
    sock.sendto(header + attributes, (LEFT, TURN_PORT))
    answer = sock.recv(2000)
    assert int.from_bytes(answer[:2], "big") == kind | 0x0100, answer


def open_channel(sock: socket.socket) -> None:
    """Request an allocation from coturn, and a channel to the receiver."""
    ask_turn(sock, 0x0003, struct.pack(">HHBxxx", 0x0019, 4, 17))
    cookie = 0x2112A442
    where = int.from_bytes(socket.inet_aton(RECEIVER), "big") ^ cookie
    peer = struct.pack(">HHxBHI", 0x0012, 8, 1, RECEIVER_PORT ^ cookie >> 16, where)
    ask_turn(sock, 0x0009, struct.pack(">HHHxx", 0x000C, 4, 0x4000) + peer)


def serve() -> None:
    """Run netctl's relay."""
    server = RelayServer(
        "0.0.0.0", PORTS, RelayTable(SECRET, os.urandom(32), PORTS, Limits(pair_rate=UNLIMITED))
    )
    print("ready", flush=True)
    server.serve()


def send(kind: str, batches: bool, seconds: float) -> None:
    """Send packets for `seconds`."""
    sock = member(4000)
    packet, to = PACKET, (LEFT, NFT_PORT)
    if kind == "netctl":
        bind(sock, LEFT, PORTS[0], PORTS[1])
        to = (LEFT, PORTS[1])
    elif kind == "coturn":
        open_channel(sock)
        packet, to = struct.pack(">HH", 0x4000, len(PACKET)) + PACKET, (LEFT, TURN_PORT)
    option = [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("H", len(packet)))]
    data = packet * BATCH
    time.sleep(0.3)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(16):
            if batches:
                sock.sendmsg([data], option, 0, to)
            else:
                sock.sendto(packet, to)


def receive(kind: str, seconds: float) -> None:
    """Print the Gbit/s that arrive, from the first packet on."""
    sock = member(RECEIVER_PORT)
    if kind == "netctl":
        bind(sock, RIGHT, PORTS[1], PORTS[0])
    sock.setsockopt(socket.SOL_UDP, UDP_GRO, 1)
    print("ready", flush=True)
    buffer = bytearray(65536)
    while sock.recv_into(buffer) < len(PACKET):
        pass  # the relay's message that the sender is bound
    total, start = 0, time.monotonic()
    last = start
    sock.settimeout(1)
    with contextlib.suppress(TimeoutError):
        while last - start < seconds * 0.8:
            total += sock.recv_into(buffer)
            last = time.monotonic()
    print(total * 8 / max(last - start, 1e-9) / 1e9)


def inside(name: str, *argv: str) -> list[str]:
    """The command line that runs `argv` in one of the namespaces."""
    return ["ip", "netns", "exec", f"{PREFIX}-{name}", *argv]


def run(*argv: str, text: str | None = None) -> str:
    """Run a command; returns its output. Raises CalledProcessError."""
    return subprocess.run(argv, check=True, capture_output=True, text=True, input=text, timeout=60).stdout


@contextlib.contextmanager
def world() -> Iterator[None]:
    """Namespaces of sender, relay and receiver, with a cable between neighbours."""
    try:
        for name in ("a", "r", "b"):
            run("ip", "netns", "add", f"{PREFIX}-{name}")
            run(*inside(name, "ip", "link", "set", "lo", "up"))
        for end, outer, inner in (("a", SENDER, LEFT), ("b", RECEIVER, RIGHT)):
            run(
                *inside(
                    end,
                    "ip",
                    "link",
                    "add",
                    "eth0",
                    "type",
                    "veth",
                    "peer",
                    f"to{end}",
                    "netns",
                    f"{PREFIX}-r",
                )
            )
            run(*inside(end, "ip", "address", "add", f"{outer}/24", "dev", "eth0"))
            run(*inside("r", "ip", "address", "add", f"{inner}/24", "dev", f"to{end}"))
            run(*inside(end, "ip", "link", "set", "eth0", "up"))
            run(*inside("r", "ip", "link", "set", f"to{end}", "up"))
            run(*inside(end, "ip", "route", "add", "default", "via", inner))
        run(*inside("r", "sysctl", "-qw", "net.ipv4.ip_forward=1"))
        yield
    finally:
        for name in ("a", "r", "b"):
            subprocess.run(["ip", "netns", "del", f"{PREFIX}-{name}"], check=False, capture_output=True)


@contextlib.contextmanager
def relayed_by(kind: str) -> Iterator[None]:
    """Run the relay of this kind in the middle namespace."""
    if kind == "nft":
        rule = f"udp dport {NFT_PORT} dnat to {RECEIVER}:{RECEIVER_PORT}"
        chain = f"chain c {{ type nat hook prerouting priority -100\n {rule}\n }}"
        run(*inside("r", "nft", "-f", "-"), text=f"table ip bench {{\n {chain}\n }}")
        yield
        run(*inside("r", "nft", "delete", "table", "ip", "bench"))
        return
    if kind == "netctl":
        command = [sys.executable, __file__, "--role", "serve"]
    else:
        program = os.environ[TURNSERVER]
        command = [program, "-n", "--no-auth", "-L", LEFT, "-E", RIGHT, "-p", str(TURN_PORT), "--no-tls"]
        command += ["--log-file", "stdout", "--no-stdout-log", "--pidfile", "/dev/null"]
        said = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
        if "--udp-gso" in said.stdout + said.stderr:  # coturn 4.18 and later: its fastest way
            command += ["--multiplex-peer", "--udp-gso", "--allowed-peer-ip", RECEIVER]
        else:
            command += ["--no-cli", "--no-dtls"]
    process = subprocess.Popen(inside("r", *command), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        if kind == "netctl":
            assert process.stdout is not None
            process.stdout.readline()
        else:
            time.sleep(1)
        yield
    finally:
        process.terminate()
        process.communicate(timeout=20)


def measure(kind: str, batches: bool, seconds: float) -> float:
    """Gbit/s that arrive at the receiver."""
    mine = [sys.executable, __file__, "--seconds", str(seconds), "--kind", kind]
    with relayed_by(kind):
        receiver = subprocess.Popen(
            inside("b", *mine, "--role", "receive"), stdout=subprocess.PIPE, text=True, stderr=sys.stderr
        )
        assert receiver.stdout is not None
        receiver.stdout.readline()
        run(*inside("a", *mine, "--role", "send", *(["--batches"] if batches else [])))
        return float(receiver.communicate(timeout=30)[0])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--turnserver", default="turnserver", help="any version of coturn's")
    parser.add_argument("--role", choices=["serve", "send", "receive"], help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=KINDS, default="netctl", help=argparse.SUPPRESS)
    parser.add_argument("--batches", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    match arguments.role:
        case "serve":
            return serve()
        case "send":
            return send(arguments.kind, arguments.batches, arguments.seconds)
        case "receive":
            return receive(arguments.kind, arguments.seconds)
    os.environ[TURNSERVER] = arguments.turnserver
    kinds = [kind for kind in KINDS if kind != "coturn" or shutil.which(arguments.turnserver)]
    with world():
        print("| sender | " + " | ".join(kinds) + " | netctl ÷ coturn |")
        print("|---" * (len(kinds) + 2) + "|")
        for batches, name in ((False, "packet by packet"), (True, f"batches of {BATCH}")):
            rows: dict[str, list[float]] = {kind: [] for kind in kinds}
            for _ in range(arguments.runs):
                for kind in kinds:
                    rows[kind].append(measure(kind, batches, arguments.seconds))
            medians = {kind: statistics.median(found) for kind, found in rows.items()}
            cells = " | ".join(f"{medians[kind]:.2f}" for kind in kinds)
            ratio = f"{medians['netctl'] / medians['coturn']:.1f}" if "coturn" in medians else ""
            print(f"| {name}, Gbit/s | {cells} | {ratio} |", flush=True)
    return None


if __name__ == "__main__":
    main()
