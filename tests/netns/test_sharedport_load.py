"""The contract of the shared port, on both kinds of it, while the tunnel carries all that it can.

The asker's probes leave its own WireGuard port, so they are of one flow with the data.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.hosts import Host, Program, join, needs_namespaces
from tests.support.patience import BUSY_S
from tests.support.wgside import GO, LINK, OURS, PORT, Side

pytestmark = [pytest.mark.alone, pytest.mark.netns, needs_namespaces]

KINDS = {"raw": (GO, "wireguard-go"), "handed-over": (OURS, "netctl-wg")}
PROBES = 200
EVERY_S = 0.02
ANSWERED = 0.98
"""Of the probes. A path in use is given up only after six unanswered ones in a row."""
WITHIN_MS = 600.0
"""The 99th percentile: after that a path counts as suspect (`netctl.paths.constants.ANSWER_WITHIN`)."""
ANSWER = f"""
import select, sys
from netctl.engine.port.sharedport import open_shared_port
port = open_shared_port(sys.argv[1], "{LINK}", {PORT})
print("ready", flush=True)
while True:
    select.select([port], [], [])
    for data, source in port.receive():
        port.send(source, data[:5] + b"A" + data[6:])
"""
ASK = f"""
import json, select, struct, sys, time
from netctl.engine.port.sharedport import open_shared_port
from netctl.model.addresses import SocketAddress
port = open_shared_port("wireguard-go", "{LINK}", {PORT})
target, count, every = SocketAddress.of(sys.argv[1], {PORT}), int(sys.argv[2]), float(sys.argv[3])
took, sent = {{}}, []
end = time.monotonic() + count * every + 3
while time.monotonic() < end and len(took) < count:
    now = time.monotonic()
    if len(sent) < count and (not sent or now - sent[-1] >= every):
        port.send(target, b"\\xf5nc1\\x01Q" + struct.pack(">I", len(sent)) + bytes(60))
        sent.append(now)
    if select.select([port], [], [], every / 4)[0]:
        for data, _ in port.receive():
            if data[5:6] == b"A" and len(data) == 70:
                number = struct.unpack_from(">I", data, 6)[0]
                took[number] = (time.monotonic() - sent[number]) * 1000
times = sorted(took.values())
report = {{"median_ms": round(times[len(times) // 2], 1), "p99_ms": round(times[-len(times) // 100 - 1], 1)}}
print(json.dumps(report | {{"answered": len(took)}}))
"""
SINK = """
import socket
server = socket.create_server(("10.77.0.1", 7001))
print("ready", flush=True)
peer, total, buffer = server.accept()[0], 0, bytearray(1 << 18)
while count := peer.recv_into(buffer):
    total += count
print(total, flush=True)
"""
SOURCE = """
import socket, sys, time
peer = socket.create_connection(("10.77.0.1", 7001), 10)
print("ready", flush=True)
end, block = time.monotonic() + float(sys.argv[1]), bytes(1 << 18)
while time.monotonic() < end:
    peer.sendall(block)
"""


@pytest.fixture
def pair() -> Iterator[tuple[Host, Host]]:
    one, other = Host("port-1"), Host("port-2")
    try:
        join(one, other, "192.0.2.1/24", "192.0.2.2/24")
        for host, address in ((one, "2001:db8::1/64"), (other, "2001:db8::2/64")):
            host.run("ip", "address", "add", address, "dev", "eth0", "nodad")
            host.run("ethtool", "-K", "eth0", "gro", "on")
        yield one, other
    finally:
        one.close()
        other.close()


@contextmanager
def running(host: Host, code: str, *argv: str) -> Iterator[Program]:
    """A program that has said that it is ready; killed at the end, if it still runs."""
    with host.start(sys.executable, "-c", code, *argv) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
            yield program
        finally:
            program.kill()


@pytest.mark.parametrize("outside", ["192.0.2.1", "2001:db8::1"], ids=["v4", "v6"])
@pytest.mark.parametrize("kind", KINDS)
def test_probes_are_answered_under_full_load(pair: tuple[Host, Host], kind: str, outside: str) -> None:
    program, engine = KINDS[kind]
    one, other = Side(pair[0], program, 1), Side(pair[1], GO, 2)
    one.peer(other, None)
    other.peer(one, f"[{outside}]" if ":" in outside else outside)
    other.ping(one)
    seconds = PROBES * EVERY_S + 4
    with (
        running(pair[0], ANSWER, engine),
        running(pair[0], SINK) as sink,
        running(pair[1], SOURCE, str(seconds)) as source,
    ):
        report = json.loads(pair[1].python(ASK, outside, str(PROBES), str(EVERY_S)))
        assert source.wait(BUSY_S) == 0
        carried = int(sink.communicate(timeout=BUSY_S)[0])
    rate = carried * 8 / seconds / 1e6
    print(f"{kind} {outside}: {report} of {PROBES}, {rate:.0f} Mbit/s")
    assert carried > 20 << 20
    assert report["answered"] >= ANSWERED * PROBES, report
    assert report["p99_ms"] <= WITHIN_MS, report
