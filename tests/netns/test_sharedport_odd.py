"""What the raw shared port makes of receipts that are no plain datagram: merged, in fragments, too many, too short."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from tests.support.hosts import Host, Program, join, needs_namespaces
from tests.support.patience import BUSY_S

pytestmark = [pytest.mark.netns, needs_namespaces]

RECEIVE = """
import json, select, signal, socket, sys
from netctl.engine.port.rawport import RawPort
over = []
signal.signal(signal.SIGTERM, lambda *_: over.append(1))
# The port is somebody's, as it is beside an engine, who is shown batches (UDP_GRO).
engine = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
engine.setsockopt(17, 104, 1)
engine.bind(("::", 51820))
drain = int(sys.argv[1])
port = RawPort(51820, drain)
print("ready", flush=True)
seen = []
while True:
    if not select.select([port], [], [], 0.5)[0]:
        if over: break
        continue
    found = port.receive()
    assert len(found) <= drain + 63, len(found)
    seen += [[data.hex(), str(source)] for data, source in found]
print(json.dumps(seen))
"""
PRELUDE = """
import json, os, socket, struct, sys
from netctl.engine.port.rawport import udp_checksum
from netctl.wire.merged import TAIL_LENGTHS
PROBE = b"\\xf5nc1\\x01" + bytes(range(65))
BOUND = b"\\xf5nc1\\x13" + bytes(44)
COOKIE = b"\\xf5nc1\\x11" + bytes(40)
DATA = b"\\4\\0\\0\\0" + os.urandom(1396)
V4, V6 = (socket.AF_INET, ("192.0.2.1", 51820)), (socket.AF_INET6, ("2001:db8::1", 51820))
def opened(family):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind(("", 7000))
    return sock
"""
MERGED = """
for family, target in (V4, V6):
    sock = opened(family)
    for last in (PROBE, BOUND, COOKIE):
        for before in (1, 3, 40):
            sock.sendmsg([DATA * before + last], [(17, 103, struct.pack("H", len(DATA)))], 0, target)
    sock.sendmsg([DATA * 3], [(17, 103, struct.pack("H", len(DATA)))], 0, target)
    sock.sendmsg([PROBE * 5 + COOKIE], [(17, 103, struct.pack("H", len(PROBE)))], 0, target)
    sock.close()
"""
ODD = """
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
source, target = socket.inet_aton("192.0.2.2"), socket.inet_aton("192.0.2.1")
def udp(payload, port=51820):
    segment = struct.pack(">HHHH", 7000, port, 8 + len(payload), 0) + payload
    return segment[:6] + udp_checksum(source, target, segment).to_bytes(2, "big") + segment[8:]
def ip(body, flags=0, options=b"", identity=1):
    head = struct.pack(">BBHHHBBH4s4s", 0x45 + len(options) // 4, 0, 0, identity, flags, 64, 17, 0, source, target)
    raw.sendto(head + options + body, ("192.0.2.1", 0))
whole = udp(PROBE)
ip(whole)                                   # the first that is seen
ip(whole[:48], 0x2000, identity=2)          # a first fragment and no second: nobody sees it
ip(whole, 6, identity=3)                    # a last fragment that begins like a probe: nobody sees it
ip(whole, options=b"\\1" * 8)                # options move everything: seen
ip(whole[:6] + b"\\0\\0" + whole[8:])        # without a checksum, which IPv4 allows: seen
ip(udp(PROBE, 51821))                       # another port's
ip(udp(b"\\xf5nc"))                          # too short to be anything
ip(struct.pack(">HHHH", 7000, 51820, 500, 0) + PROBE)  # says that it is longer than it is
ip(struct.pack(">HHHH", 0, 51820, 78, 0) + PROBE)      # from port 0: nobody can be answered there
ip(udp(PROBE[:5] + b"end"))
"""
MANY = """
sock = opened(socket.AF_INET)
for number in range(400):
    sock.sendto(PROBE[:5] + struct.pack(">I", number) + PROBE[9:], V4[1])
"""


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    one, two = Host("odd-1"), Host("odd-2")
    try:
        join(one, two, "192.0.2.1/24", "192.0.2.2/24")
        for host, address in ((one, "2001:db8::1/64"), (two, "2001:db8::2/64")):
            host.run("ip", "-6", "addr", "add", address, "dev", "eth0", "nodad")
        yield one, two
    finally:
        one.close()
        two.close()


def received(hosts: tuple[Host, Host], sent_by: str, drain: int = 256) -> list[tuple[bytes, str]]:
    """What the port made of it."""
    one, two = hosts
    with one.start(sys.executable, "-c", RECEIVE, str(drain)) as receiver:
        assert said(receiver) == "ready\n"
        two.python(PRELUDE + sent_by)
        receiver.terminate()  # once nothing more comes
        output = receiver.communicate(timeout=BUSY_S)[0].splitlines()
    assert receiver.returncode == 0, output
    return [(bytes.fromhex(data), source) for data, source in json.loads(output[-1])]


def said(program: Program) -> str:
    assert program.stdout is not None
    return program.stdout.readline()


def test_ours_is_found_in_what_the_kernel_merged(hosts: tuple[Host, Host]) -> None:
    found = received(hosts, MERGED)
    for source in ("192.0.2.2:7000", "[2001:db8::2]:7000"):
        ours = [data for data, sender in found if sender == source]
        assert [len(data) for data in ours] == [70] * 3 + [49] * 3 + [45] * 3 + [70] * 5 + [45]
        assert all(data.startswith(b"\xf5nc1") for data in ours)
    assert len(found) == 30


def test_fragments_and_liars_are_dropped_options_and_missing_checksums_are_not(
    hosts: tuple[Host, Host],
) -> None:
    found = [data for data, _ in received(hosts, ODD)]
    probe = b"\xf5nc1\x01" + bytes(range(65))
    assert found == [probe, probe, probe, b"\xf5nc1\x01end"]


def test_a_flood_is_taken_in_turns_and_in_order(hosts: tuple[Host, Host]) -> None:
    found = [int.from_bytes(data[5:9], "big") for data, _ in received(hosts, MANY, drain=16)]
    assert found == list(range(400))
