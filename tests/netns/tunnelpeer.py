"""A WireGuard peer without a TUN: a plain UDP socket, a `Device`, and an inner host that only knows ICMP echo.

Started by `test_tunnel_interop` inside a namespace. With targets it pings them in turn and exits 0 when all have
answered; without, when it has answered as many pings as asked for. Exits 1 after the time limit.
"""

from __future__ import annotations

import argparse
import base64
import ipaddress
import os
import select
import socket
import time

from cryptography.exceptions import InvalidTag

from netctl.model.addresses import SocketAddress
from netctl.tunnel import Device, Effect, FlushStaged, Peer, SendDatagram, SendKeepalive
from netctl.tunnel.messages import (
    TRANSPORT,
    message_type,
    transport_fields,
    transport_header,
    transport_nonce,
)


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total = sum(int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big") for i in range(0, len(data), 2))
    return ~(total % 65535) & 0xFFFF


def echo(source: bytes, destination: bytes, *, reply: bool, rest: bytes) -> bytes:
    """An ICMP or ICMPv6 echo packet; `rest` is identifier, sequence number and data."""
    if len(source) == 4:
        icmp = bytes([0 if reply else 8, 0, 0, 0]) + rest
        icmp = icmp[:2] + checksum(icmp).to_bytes(2, "big") + icmp[4:]
        header = bytes([0x45, 0]) + (20 + len(icmp)).to_bytes(2, "big") + bytes([0, 0, 0x40, 0, 64, 1, 0, 0])
        header += source + destination
        return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + icmp
    icmp = bytes([129 if reply else 128, 0, 0, 0]) + rest
    pseudo = source + destination + len(icmp).to_bytes(4, "big") + bytes([0, 0, 0, 58])
    icmp = icmp[:2] + checksum(pseudo + icmp).to_bytes(2, "big") + icmp[4:]
    return (
        bytes([0x60, 0, 0, 0]) + len(icmp).to_bytes(2, "big") + bytes([58, 64]) + source + destination + icmp
    )


class InnerHost:
    """Device, socket and the one inner host."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = Device(base64.b64decode(options.private_key), os.urandom)
        peer = self.device.add_peer(base64.b64decode(options.peer))
        assert peer is not None
        self.peer = peer
        if options.preshared_key:
            peer.preshared_key = base64.b64decode(options.preshared_key)
        for family in ("0.0.0.0/0", "::/0"):
            self.device.allowed_ips.insert(ipaddress.ip_network(family), peer)
        if options.endpoint:
            self.device.set_endpoint(peer, SocketAddress.parse(options.endpoint), time.monotonic())
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", options.port))
        self.own = {
            version: ipaddress.ip_address(text) for version, text in ((4, options.v4), (6, options.v6))
        }
        self.load = options.under_load
        self.answered: set[bytes] = set()
        self.replies = 0
        self.cookies = 0

    def send(self, packets: list[bytes]) -> None:
        now = time.monotonic()
        keypair = self.peer.sendable_keypair(now)
        first = keypair.reserve(len(packets), now) if keypair else None
        if keypair is None or first is None:
            self.perform(self.device.stage(self.peer, packets, now))
            return
        for counter, packet in enumerate(packets, first):
            padded = packet + bytes(-len(packet) % 16)
            sealed = keypair.send.encrypt(transport_nonce(counter), padded, b"")
            self.put(self.peer.endpoint, transport_header(keypair.remote_index, counter) + sealed)
        self.peer.data_sent(now, keypair, is_keepalive=not any(packets))

    def put(self, destination: SocketAddress | None, datagram: bytes) -> None:
        assert destination is not None
        self.socket.sendto(datagram, (destination.host, destination.port))

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendDatagram(peer, destination, data):
                    self.cookies += peer is None
                    self.put(destination, data)
                case SendKeepalive():
                    self.send([b""])
                case FlushStaged(peer):
                    self.send(self.of(peer).take_staged())

    def of(self, peer: Peer) -> Peer:
        assert peer is self.peer
        return peer

    def receive(self) -> None:
        datagram, address = self.socket.recvfrom(65535)
        source, now = SocketAddress.of(*address), time.monotonic()
        if message_type(datagram) != TRANSPORT:
            if self.load:
                self.device.note_handshake_load(now)
            self.perform(self.device.handle_handshake(datagram, source, now, time.time()))
            return
        index, counter = transport_fields(datagram)
        keypair = self.device.keypair(index, now)
        if keypair is None:
            return
        try:
            packet = keypair.receive.decrypt(transport_nonce(counter), datagram[16:], b"")
        except InvalidTag:
            return
        if keypair.replay.accept_one(counter):
            self.peer.data_received(keypair, source, now, is_keepalive=not packet)
            self.inner(packet)

    def inner(self, packet: bytes) -> None:
        if packet[:1] == b"\x45" and packet[9] == 1:
            size, source, destination, at = (
                int.from_bytes(packet[2:4], "big"),
                packet[12:16],
                packet[16:20],
                20,
            )
            request, response = 8, 0
        elif packet[:1] == b"\x60" and packet[6] == 58:
            size, source, destination, at = (
                40 + int.from_bytes(packet[4:6], "big"),
                packet[8:24],
                packet[24:40],
                40,
            )
            request, response = 128, 129
        else:
            return
        if packet[at] == request:
            self.replies += 1
            self.send([echo(destination, source, reply=True, rest=packet[at + 4 : size])])
        elif packet[at] == response:
            self.answered.add(source)

    def run(self, targets: list[str], replies: int, limit_s: float) -> bool:
        end = time.monotonic() + limit_s
        wanted = [ipaddress.ip_address(target) for target in targets]
        for number, target in enumerate(wanted):
            rest = number.to_bytes(4, "big") + b"sixteen bytes..." * 4
            self.send([echo(self.own[target.version].packed, target.packed, reply=False, rest=rest)])
        while (now := time.monotonic()) < end:
            due = self.device.next_timer()
            if due is not None and due <= now:
                self.perform(self.device.handle_timer(now, time.time()))
                continue
            wait = min(end - now, due - now if due is not None else end - now)
            if select.select([self.socket], [], [], wait)[0]:
                self.receive()
            if self.answered >= {target.packed for target in wanted} and self.replies >= replies:
                return True
        return False


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("--private-key", "--peer", "--preshared-key", "--endpoint", "--v4", "--v6"):
        parser.add_argument(name)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--under-load", action="store_true")
    parser.add_argument("--limit", type=float, default=120)
    parser.add_argument("--replies", type=int, default=0)
    parser.add_argument("targets", nargs="*")
    options = parser.parse_args()
    host = InnerHost(options)
    print("ready", flush=True)
    done = host.run(options.targets, options.replies, options.limit)
    print(f"answered={len(host.answered)} cookies={host.cookies}", flush=True)
    return 0 if done else 1


if __name__ == "__main__":
    raise SystemExit(main())
