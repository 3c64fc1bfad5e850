"""The shared port beside a real wireguard-go: it sees what is ours, sends as the engine's port, harms nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from tests.support.hosts import Host, join, needs_namespaces
from tests.support.patience import BUSY_S, wait_for

pytestmark = [pytest.mark.netns, needs_namespaces]

PINGS = 1500
WIREGUARD = """
set -e
umask 077
wg genkey > /run/key
wireguard-go wg0 >/dev/null 2>&1
wg set wg0 private-key /run/key listen-port 51820
ip addr add {inner}/24 dev wg0
ip link set wg0 up
wg pubkey < /run/key
"""
SHARED = """
import json, select, sys
from netctl.engine.port.sharedport import open_shared_port
from netctl.model.addresses import SocketAddress
port = open_shared_port("wireguard-go", "wg0", 51820)
print("ready", flush=True)
seen = []
while len(seen) < 4 and select.select([port], [], [], 120)[0]:
    for data, source in port.receive():
        seen.append([data.hex(), str(source)])
        assert port.send(source, b"answer to " + data[:5], None if len(seen) % 2 else 64)
assert not select.select([port], [], [], 0.3)[0]
assert not port.send(SocketAddress.of("203.0.113.99", 5), b"nowhere")
port.close()
port.close()
print(json.dumps(seen))
"""
STRANGER = """
import json, socket, struct
answers = []
for family, host in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(120)
    sock.bind(("", 7000))
    noise = [b"", b"x", b"\\xf5nc", b"\\xf5nc2" + bytes(60), bytes(1400), struct.pack("<I", 4) + bytes(60)]
    for data in noise:
        sock.sendto(data, (host, 51820))
    sock.sendto(b"\\xf5nc1" + bytes(60), (host, 51821))
    for data in (b"\\xf5nc1\\x01probe", b"\\x01\\x01\\0\\0\\x21\\x12\\xa4\\x42stun"):
        sock.sendto(data, (host, 51820))
        answer, source = sock.recvfrom(2000)
        answers.append([answer.decode("latin-1"), source[0], source[1]])
print(json.dumps(answers))
"""


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    one, two = Host("one"), Host("two")
    try:
        join(one, two, "192.0.2.1/24", "192.0.2.2/24")
        for host, address in ((one, "2001:db8::1/64"), (two, "2001:db8::2/64")):
            host.run("ip", "-6", "addr", "add", address, "dev", "eth0", "nodad")
        keys = {}
        for host, inner in ((one, "10.9.0.1"), (two, "10.9.0.2")):
            keys[host.name] = host.run("sh", "-c", WIREGUARD.format(inner=inner)).split()[-1]
        one.run("wg", "set", "wg0", "peer", keys["two"], "allowed-ips", "10.9.0.2/32")
        two.run(
            *("wg", "set", "wg0", "peer", keys["one"], "allowed-ips", "10.9.0.1/32"),
            *("endpoint", "192.0.2.1:51820"),
        )
        yield one, two
    finally:
        one.close()
        two.close()


def echo_replies(host: Host) -> int:
    """All that it got so far."""
    names, counts = (
        line.split() for line in host.run("cat", "/proc/net/snmp").splitlines() if line.startswith("Icmp:")
    )
    return int(counts[names.index("InEchoReps")])


def test_the_port_is_shared_while_the_tunnel_is_busy(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    two.run("ping", "-c", "1", "-W", "5", "10.9.0.1")
    load = two.start("ping", "-i", "0.002", "-c", str(PINGS), "-q", "10.9.0.1")
    shared = one.start(*python(SHARED))
    assert shared.stdout is not None
    assert shared.stdout.readline() == "ready\n"
    answers = json.loads(two.run(*python(STRANGER)))
    seen = json.loads(shared.communicate(timeout=BUSY_S)[0].splitlines()[-1])
    assert [source for _, source in seen] == ["192.0.2.2:7000"] * 2 + ["[2001:db8::2]:7000"] * 2
    assert [bytes.fromhex(data)[:5] for data, _ in seen] == [b"\xf5nc1\x01", b"\x01\x01\0\0\x21"] * 2
    # That they arrived at an ordinary socket also says that the kernel found the checksums right.
    assert [answer[1:] for answer in answers] == [["192.0.2.1", 51820]] * 2 + [["2001:db8::1", 51820]] * 2
    assert all(answer[0].startswith("answer to ") for answer in answers)
    report = load.communicate(timeout=BUSY_S)[0]
    # A ping that ends gives its last answers twice the longest round trip so far: an answer may come later than that.
    assert f"{PINGS} packets transmitted" in report, report
    wait_for("every ping is answered", lambda: echo_replies(two) >= PINGS + 1)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]
