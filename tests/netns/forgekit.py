"""Packets with any source, put into a tunnel past everything that this host would check."""

from __future__ import annotations

import json
import struct
import sys
from ipaddress import ip_address

from tests.support.hosts import Host
from tests.support.patience import BUSY_S

SPOOF = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
for line in sys.stdin:
    packet = bytes.fromhex(line)
    s.sendto(packet, ('nctl0', 0x0800 if packet[0] >> 4 == 4 else 0x86dd))
"""
SEEN = """
import json, socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)); s.bind(('nctl0', 0)); s.settimeout(120)
found = []
print('up', flush=True)
try:
    while 'last' not in found:
        data, about = s.recvfrom(65535)
        if about[2] != socket.PACKET_OUTGOING and b'spoof:' in data:
            found.append(data[data.rindex(b'spoof:') + 6:].rstrip(b'.').decode())
except TimeoutError: pass
print(json.dumps(found))
"""


def packet(source: str, target: str, mark: str, fragment: int | None = None) -> bytes:
    """Of protocol 253 (RFC 3692); `fragment`: its offset in bytes, more follow after the first."""
    one, other = ip_address(source).packed, ip_address(target).packed
    body = bytes(16) + (b"spoof:" + mark.encode()).ljust(32, b".")
    if len(one) == 4:
        field = 0 if fragment is None else fragment // 8 | (0 if fragment else 0x2000)
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 9, field, 64, 253, 0) + one + other
        total = sum(struct.unpack("!10H", head))
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        return head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:] + body
    following = 253
    if fragment is not None:
        body = struct.pack("!BBHI", 253, 0, fragment | (fragment == 0), 9) + body
        following = 44
    return struct.pack("!IHBB", 6 << 28, len(body), following, 64) + one + other + body


def seen(source: Host, target: Host, packets: list[bytes]) -> list[str]:
    """Put packets into the tunnel of one; the marks of those that come out at the other, until `last`."""
    ear = target.start(sys.executable, "-c", SEEN)
    assert ear.stdout is not None
    assert ear.stdout.readline() == "up\n"
    lines = "".join(one.hex() + "\n" for one in packets)
    source.run("sh", "-c", 'exec "$0" -c "$1"', sys.executable, SPOOF, text=lines)
    found: list[str] = json.loads(ear.communicate(timeout=BUSY_S)[0])
    return found
