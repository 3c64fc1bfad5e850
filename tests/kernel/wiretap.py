"""Writes down the handshakes and the paths' own messages that pass a link, one a line: Unix time, way, kind, far end.

`python wiretap.py LINK` runs until it is ended. Data is told once when it begins, and again after half a second without
any.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from ipaddress import IPv4Address

ETH_P_ALL, ETH_P_IP, UDP = 0x0003, 0x0800, 17
TO_GUEST = 4
"""PACKET_OUTGOING: what leaves by the tap goes to the guest."""
WIREGUARD = {1: "initiation", 2: "response", 3: "cookie", 4: "data"}
OURS = {
    0x01: "probe",
    0x02: "relayed probe",
    0x10: "bind",
    0x11: "cookie of the relay",
    0x12: "confirm",
    0x13: "bound",
}
MAGIC = b"\xf5nc1"
REPEATS = {"data", "probe", "relayed probe", "stun"}
"""Kinds that are told again only after a rest."""
REST_S = 0.5


def kind_of(payload: bytes) -> str | None:
    """The kind of a datagram on a WireGuard port; None: another."""
    if payload[:4] == MAGIC and len(payload) > 4:
        return OURS.get(payload[4])
    if payload[4:8] == b"\x21\x12\xa4\x42":
        return "stun"
    return WIREGUARD.get(payload[0]) if payload[1:4] == b"\0\0\0" else None


def main(link: str) -> None:
    """Listen for ever."""
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    tap.bind((link, 0))
    told: dict[tuple[str, str, str], float] = {}
    while True:
        frame, (_, _, packet_type, _, _) = tap.recvfrom(2048)
        now = time.time()
        if len(frame) < 42 or struct.unpack_from(">H", frame, 12)[0] != ETH_P_IP or frame[23] != UDP:
            continue
        at = 14 + 4 * (frame[14] & 0x0F)
        source, destination = IPv4Address(frame[26:30]), IPv4Address(frame[30:34])
        ports = struct.unpack_from(">HH", frame, at)
        kind = kind_of(frame[at + 8 :])
        if kind is None:
            continue
        inward = packet_type == TO_GUEST
        far = f"{source}:{ports[0]}" if inward else f"{destination}:{ports[1]}"
        way = "in " if inward else "out"
        before = told.get((way, kind, far), 0.0)
        told[way, kind, far] = now
        if kind not in REPEATS or now - before >= REST_S:
            print(f"{now:.3f} {way} {kind} {far}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
