"""A small DNS server for the lab (RFC 1035, A and AAAA over UDP). It reads its zone, a JSON file, for each question.

`python -m netctl.lab.dnsserver ZONE`, where the file is `{"vpn.example.net": ["192.0.2.1", "2001:db8::1"]}`. Other
names do not exist (NXDOMAIN). The server answers on port 53 of all addresses.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import struct
import sys
from pathlib import Path

A, AAAA, IN = 1, 28, 1
NO_ERROR, NO_NAME = 0, 3
ANSWER = 0x8180
"""Flags: a response, recursion desired and available."""
NAME_OF_THE_QUESTION = 0xC00C
"""A compression pointer to the name in the question (RFC 1035 §4.1.4)."""


def answer(question: bytes, zone: dict[str, list[str]]) -> bytes:
    """The answer to one question. Raises any exception of its parser if the question is malformed."""
    labels, at = [], 12
    while length := question[at]:
        labels.append(question[at + 1 : at + 1 + length].decode())
        at += 1 + length
    kind = struct.unpack_from("!H", question, at + 1)[0]
    known = zone.get(".".join(labels).lower())
    wanted = {A: 4, AAAA: 6}.get(kind)
    found = [
        address.packed for address in map(ipaddress.ip_address, known or ()) if address.version == wanted
    ]
    code = NO_NAME if known is None else NO_ERROR
    head = question[:2] + struct.pack("!HHHHH", ANSWER | code, 1, len(found), 0, 0)
    record = struct.pack("!HHHI", NAME_OF_THE_QUESTION, kind, IN, 0)
    records = (record + struct.pack("!H", len(data)) + data for data in found)
    return head + question[12 : at + 5] + b"".join(records)


def main() -> None:
    """Serve until killed."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind(("::", 53))
        while True:
            question, source = server.recvfrom(512)
            server.sendto(answer(question, json.loads(Path(sys.argv[1]).read_text())), source)


if __name__ == "__main__":
    main()
