"""netctl-wg on real interfaces: driven by the stock `wg`, against wireguard-go, as a drop-in for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from netctl.tunnel.primitives import public_key
from tests.support.hosts import Host, join, needs_namespaces
from tests.support.patience import BUSY_S, wait_for
from tests.support.processes import EVERY
from tests.support.wgside import GO, LINK, OURS, PORT, Side, stream, text

LOOP = 50
"""Two pings and a handshake are less; a loop makes a hundred thousand a second."""
pytestmark = [pytest.mark.netns, needs_namespaces, pytest.mark.usefixtures("data_path")]


@pytest.fixture
def pair() -> Iterator[tuple[Host, Host]]:
    one, other = Host("wg-real-1"), Host("wg-real-2")
    try:
        join(one, other, "192.0.2.1/24", "192.0.2.2/24")
        for host, address in ((one, "2001:db8::1/64"), (other, "2001:db8::2/64")):
            host.run("ip", "address", "add", address, "dev", "eth0", "nodad")
        yield one, other
    finally:
        one.close()
        other.close()


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host("wg-real")
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("programs", [(OURS, OURS), (OURS, GO), (GO, OURS)], ids=["both", "to-go", "from-go"])
@pytest.mark.parametrize("outside", ["192.0.2.2", "[2001:db8::2]"], ids=["v4", "v6"])
def test_traffic_with_a_preshared_key(
    pair: tuple[Host, Host], programs: tuple[str, str], outside: str
) -> None:
    one, other = (
        Side(host, program, i + 1) for i, (host, program) in enumerate(zip(pair, programs, strict=True))
    )
    psk = os.urandom(32)
    one.peer(other, outside, psk)
    other.peer(one, None, psk)
    assert one.ping(other) == 0
    assert other.ping(one, "-s", "6000") == 0  # inner fragments
    stream(one, other)
    stream(other, one)
    for side in (one, other):
        transfer = side.host.run("wg", "show", LINK, "transfer").split()
        assert int(transfer[1]) > 1_000_000
        assert int(transfer[2]) > 1_000_000
        assert (
            abs(int(side.host.run("wg", "show", LINK, "latest-handshakes").split()[1]) - time.time()) < BUSY_S
        )


def test_a_wrong_preshared_key_lets_nothing_through(pair: tuple[Host, Host]) -> None:
    one, other = Side(pair[0], OURS, 1), Side(pair[1], GO, 2)
    one.peer(other, "192.0.2.2", os.urandom(32))
    other.peer(one, None, os.urandom(32))
    assert "100% packet loss" in one.host.run("ping", "-c", "1", "-W", "2", "10.77.0.2", check=False)


def test_a_route_with_a_smaller_mtu(pair: tuple[Host, Host]) -> None:
    one, other = Side(pair[0], OURS, 1), Side(pair[1], GO, 2)
    one.peer(other, "192.0.2.2")
    other.peer(one, None)
    one.host.run("ip", "route", "add", "192.0.2.2/32", "dev", "eth0", "mtu", "1400")
    one.ping(other)
    stream(one, other)
    stream(other, one)


def test_a_new_listen_port_and_mark_at_run_time(pair: tuple[Host, Host]) -> None:
    one, other = Side(pair[0], OURS, 1), Side(pair[1], OURS, 2)
    one.peer(other, "192.0.2.2")
    other.peer(one, None)
    one.ping(other)
    one.host.run("wg", "set", LINK, "listen-port", str(PORT + 1), "fwmark", "0x77")
    one.ping(other)  # the other side has seen the new source, and follows it
    assert f":{PORT + 1}" in other.host.run("wg", "show", LINK, "endpoints")
    assert "0x77" in one.host.run("wg", "show", LINK, "fwmark")
    taken = "import socket, time; s = socket.socket(2, 2); s.bind(('', 9)); print('ready', flush=True); time.sleep(60)"
    with one.host.start(sys.executable, "-c", taken) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        refused = one.host.run("wg", "set", LINK, "listen-port", "9", "fwmark", "1", check=False)
        holder.kill()
    assert "Address already in use" in refused
    assert one.host.run("wg", "show", LINK, "listen-port").strip() == str(PORT + 1)
    assert "0x77" in one.host.run("wg", "show", LINK, "fwmark")
    one.ping(other)


def test_setconf_syncconf_and_dump(pair: tuple[Host, Host]) -> None:
    one, other = Side(pair[0], OURS, 1), Side(pair[1], OURS, 2)
    one.peer(other, "192.0.2.2")
    other.peer(one, None)
    one.ping(other)
    before = one.host.run("wg", "show", LINK, "latest-handshakes")
    config = one.host.run("wg", "showconf", LINK)
    extra = f"\n[Peer]\nPublicKey = {text(os.urandom(32))}\nAllowedIPs = 10.99.0.0/16, fd99::/48\n"
    one.host.run("wg", "syncconf", LINK, "/dev/stdin", text=config + extra)
    assert before.strip() in one.host.run("wg", "show", LINK, "latest-handshakes")  # its session goes on
    assert len(one.host.run("wg", "show", LINK, "peers").split()) == 2
    one.host.run("wg", "syncconf", LINK, "/dev/stdin", text=config)
    assert one.host.run("wg", "show", LINK, "peers").split() == [other.key]
    one.host.run("wg", "setconf", LINK, "/dev/stdin", text=config)
    assert one.host.run("wg", "showconf", LINK) == config
    assert one.host.run("wg", "show", LINK, "dump").splitlines()[1].split("\t")[0] == other.key
    one.ping(other)
    one.host.run("wg", "set", LINK, "peer", other.key, "remove")
    assert one.host.run("wg", "show", LINK, "peers") == ""


def test_wg_quick(pair: tuple[Host, Host]) -> None:
    one, other = pair
    side = Side(other, GO, 2)
    private = os.urandom(32)
    other.run("wg", "set", LINK, "peer", text(public_key(private)), "allowed-ips", "10.77.0.1/32,fd77::1/128")
    config = f"""[Interface]
PrivateKey = {text(private)}
Address = 10.77.0.1/24, fd77::1/64
MTU = 1380
[Peer]
PublicKey = {side.key}
Endpoint = 192.0.2.2:{PORT}
AllowedIPs = 10.77.0.0/24, fd77::/64
"""
    one.run("sh", "-c", f"umask 077; cat > /run/{LINK}.conf", text=config)
    path = f"{Path(OURS).parent}:{os.environ['PATH']}"
    quick = ["env", f"PATH={path}", "WG_QUICK_USERSPACE_IMPLEMENTATION=netctl-wg", "wg-quick"]
    one.run(*quick, "up", f"/run/{LINK}.conf")
    one.run("ping", "-c", "1", "-W", "20", "10.77.0.2")
    one.run("ping", "-c", "1", "-W", "20", "fd77::2")
    one.run(*quick, "down", f"/run/{LINK}.conf")
    wait_for("the socket is gone", lambda: LINK not in one.run("ls", "/run/wireguard"))
    assert LINK not in one.run("ip", "-br", "link")


@pytest.mark.parametrize(
    "end",
    [("ip", "link", "del", LINK), ("rm", f"/var/run/wireguard/{LINK}.sock")],
    ids=["interface", "socket"],
)
def test_the_process_ends_with_its_interface_or_socket(host: Host, end: tuple[str, ...]) -> None:
    side = Side(host, OURS, 1)
    assert not side.has_ended()
    host.run(*end)
    wait_for("it is gone", side.has_ended)


def test_the_foreground_ends_at_a_signal_and_leaves_nothing(host: Host) -> None:
    with host.start("env", "LOG_LEVEL=verbose", OURS, "-f", LINK) as process:
        assert process.stdout is not None
        assert "is up" in process.stdout.readline()
        assert host.run("stat", "-c", "%a", f"/run/wireguard/{LINK}.sock").strip() == "600"
        process.terminate()
        assert process.wait(BUSY_S) == 0
    assert host.run("ls", "/run/wireguard") == ""
    assert LINK not in host.run("ip", "-br", "link")


def failing(host: Host, *argv: str) -> str:
    result = subprocess.run(host.command(*argv), capture_output=True, text=True, timeout=BUSY_S, check=False)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_what_cannot_be_is_said_in_one_line(host: Host) -> None:
    for foreground in ([], ["-f"]):
        assert "is no interface name" in failing(host, OURS, *foreground, "much-too-long-a-name")
        host.run("ip", "link", "add", "name", "taken0", "type", "bridge")
        assert "taken0 exists already" in failing(host, OURS, *foreground, "taken0")
        host.run("ip", "link", "del", "taken0")
        stripped = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]
        assert "run as root" in failing(host, *stripped, OURS, *foreground, LINK)
        missing = 'mount -t tmpfs tmpfs /dev/net && exec "$@"'
        assert "/dev/net/tun" in failing(
            host, "unshare", "--mount", "sh", "-c", missing, "sh", OURS, *foreground, LINK
        )
    host.run(OURS, LINK)
    assert f"{LINK} exists already" in failing(host, OURS, LINK)
    assert host.run("wg", "show", LINK, "listen-port").strip() != "0"
    assert "usage" in host.run(OURS, check=False)


def test_handover_of_the_port(pair: tuple[Host, Host]) -> None:
    one, other = pair
    Side(one, OURS, 1)
    ours = (
        "import sys\nfrom select import select\n"
        "from netctl.engine.port.handoverport import HandoverPort, handover_path\n"
        f"port = HandoverPort(handover_path('{LINK}'), 8)\nprint('ready', flush=True)\nseen = 0\n"
        "while seen < 2:\n    assert select([port], [], [], 120)[0]\n    for data, source in port.receive():\n"
        "        seen += 1\n        assert port.send(source, b'echo ' + data)\nport.close()"
    )
    ask = (
        "import socket, sys\nf, h = (socket.AF_INET6, '2001:db8::1') if sys.argv[1] == '6' else (2, '192.0.2.1')\n"
        f"s = socket.socket(f, 2); s.settimeout(120); s.sendto(b'\\xf5nc1?', (h, {PORT}))\n"
        "d, a = s.recvfrom(99); print(d == b'echo \\xf5nc1?', a[1])"
    )
    with one.start(sys.executable, "-c", ours) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert other.python(ask, "4").split() == ["True", str(PORT)]
        assert other.python(ask, "6").split() == ["True", str(PORT)]
        assert process.wait(BUSY_S) == 0


FORGE = r"""
import socket, struct, sys
# Two VXLAN frames of equal size to port 4789; the second has a UDP checksum that is wrong.
def csum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
def packet(mark, good):
    source, target = socket.inet_aton("10.77.0.1"), socket.inet_aton("10.77.0.2")
    payload = b"\x08\0\0\0\0\0\x2a\0" + mark * 600
    udp = struct.pack(">HHHH", 40000, 4789, 8 + len(payload), 0) + payload
    check = csum(source + target + struct.pack(">BBH", 0, 17, len(udp)) + udp) or 0xFFFF
    udp = udp[:6] + struct.pack(">H", check if good else check ^ 0x5555) + udp[8:]
    return struct.pack(">BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 64, 17, 0, source, target) + udp
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for mark, good in ((b"g", True), (b"f", False)) * 20 + ((b"e", True),):
    raw.sendto(packet(mark, good), ("10.77.0.2", 0))
"""


def test_a_forged_frame_behind_a_good_one_does_not_arrive(pair: tuple[Host, Host]) -> None:
    one, other = Side(pair[0], OURS, 1), Side(pair[1], OURS, 2)
    one.peer(other, "192.0.2.2")
    other.peer(one, None)
    one.ping(other)
    listen = (
        "import socket; s = socket.socket(2, 2); s.bind(('', 4789)); s.settimeout(120)\n"
        "print('ready', flush=True); seen = ''\nwhile not seen.endswith('e'): seen += chr(s.recv(9999)[8])\n"
        "print(seen)"
    )
    with other.host.start(sys.executable, "-c", listen) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "ready\n"
        one.host.python(FORGE)
        seen = listener.stdout.read().strip()
    assert "f" not in seen
    assert seen.count("g") == 20


@pytest.mark.parametrize("programs", [(OURS, GO), (GO, OURS)], ids=["to-go", "from-go"])
def test_a_link_local_endpoint_keeps_its_interface(
    pair: tuple[Host, Host], programs: tuple[str, str]
) -> None:
    """Both ends have to send to an address that means nothing without its interface (RFC 4007)."""
    one, other = (
        Side(host, program, i + 1) for i, (host, program) in enumerate(zip(pair, programs, strict=True))
    )
    pair[1].run("ip", "address", "add", "fe80::77/64", "dev", "eth0", "nodad")
    for host in pair:  # a second interface with the same prefix: which one it is has to be said
        host.run("ip", "link", "add", "more0", "type", "veth", "peer", "more1")
        host.run("ip", "link", "set", "more0", "up")
        host.run("ip", "link", "set", "more1", "up")
    one.peer(other, "[fe80::77%eth0]")
    other.peer(one, None)
    assert one.ping(other) == 0
    assert other.ping(one) == 0
    stream(one, other)
    stream(other, one)


@pytest.mark.parametrize("programs", [(OURS, OURS), (OURS, GO), (GO, OURS)], ids=["both", "to-go", "from-go"])
def test_a_cable_that_merges_nothing(pair: tuple[Host, Host], programs: tuple[str, str]) -> None:
    one, other = (
        Side(host, program, i + 1) for i, (host, program) in enumerate(zip(pair, programs, strict=True))
    )
    for host in pair:
        host.run("ethtool", "-K", "eth0", "tso", "off", "gso", "off", "gro", "off")
        host.run("ethtool", "-K", "eth0", "tx-udp-segmentation", "off", check=False)
        host.run(
            "ethtool", "-K", "eth0", "tx-checksumming", "off", check=False
        )  # then no GSO send goes at all
    one.peer(other, "192.0.2.2")
    other.peer(one, None)
    one.ping(other)
    stream(one, other)
    stream(other, one)


FLOOD = r"""
import hashlib, os, socket, struct, sys, time
# Initiations that any stranger can make: a right mac1 over nothing that can be opened (paper, section 5.4.4).
key = hashlib.blake2s(b"mac1----" + bytes.fromhex(sys.argv[1])).digest()
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.bind(("192.0.2.99", 0))
print("ready", flush=True)
while True:
    time.sleep(0.05)  # room for others: it is the asking for cookies that is tested
    for _ in range(400):
        body = struct.pack("<II", 1, 9) + os.urandom(108)
        out.sendto(body + hashlib.blake2s(body, key=key, digest_size=16).digest() + bytes(16), (sys.argv[2], 51930))
"""
COOKIES = """
table ip cookies {
  chain input {
    type filter hook input priority 0
    udp sport 51930 udp dport 51930 udp length 72 @th,64,32 0x03000000 counter
  }
}
"""


@pytest.mark.parametrize("programs", [(OURS, GO), (GO, OURS)], ids=["go-is-flooded", "ours-is-flooded"])
def test_a_handshake_under_load_takes_a_cookie(pair: tuple[Host, Host], programs: tuple[str, str]) -> None:
    one, other = (
        Side(host, program, i + 1) for i, (host, program) in enumerate(zip(pair, programs, strict=True))
    )
    one.peer(other, "192.0.2.2")
    other.peer(one, None)
    one.host.run("nft", "-f", "-", text=COOKIES)
    pair[0].run("ip", "address", "add", "192.0.2.99/24", "dev", "eth0")
    flood = [sys.executable, "-c", FLOOD, public_key(other.private).hex(), "192.0.2.2"]

    def cookies() -> int:
        counted = one.host.run("nft", "list", "table", "ip", "cookies")
        return int(counted.split("counter packets ")[1].split()[0])

    def with_a_cookie() -> bool:
        """A new session, by whatever way it comes."""
        before = cookies()
        one.host.run("wg", "set", LINK, "peer", other.key, "remove")
        one.peer(other, "192.0.2.2")
        said = one.host.run("ping", "-c", "1", "-W", "18", "10.77.0.2", timeout=BUSY_S, check=False)
        return "1 received" in said and cookies() > before

    with one.host.start(*flood) as flooder:
        assert flooder.stdout is not None
        assert flooder.stdout.readline() == "ready\n"
        wait_for("the load is noticed, and a session is made all the same", with_a_cookie)
        flooder.kill()
        flooder.wait(BUSY_S)


def test_an_mtu_that_changes_under_traffic(pair: tuple[Host, Host]) -> None:
    one, other = Side(pair[0], OURS, 1), Side(pair[1], GO, 2)
    one.peer(other, "192.0.2.2")
    other.peer(one, None)
    for mtu in ("1280", "1420", "1300"):
        for side in (one, other):
            side.host.run("ip", "link", "set", LINK, "mtu", mtu)
        time.sleep(1.2)  # it is looked at every second
        stream(one, other)
        stream(other, one)
        largest = ("ping", "-c", "1", "-W", "5", "-M", "do", "-s", str(int(mtu) - 28))
        wait_for(
            f"{mtu} bytes pass",
            lambda: "1 received" in one.host.run(*largest, "10.77.0.2", check=False),  # noqa: B023
        )


@pytest.mark.parametrize("programs", [(OURS, GO), (GO, OURS)], ids=["go-restarts", "we-restart"])
def test_a_peer_that_is_killed_and_comes_back(pair: tuple[Host, Host], programs: tuple[str, str]) -> None:
    one, other = (
        Side(host, program, i + 1) for i, (host, program) in enumerate(zip(pair, programs, strict=True))
    )
    one.peer(other, "192.0.2.2")
    other.peer(one, "192.0.2.1")
    one.ping(other)
    (pid,) = (line.split()[0] for line in other.host.run(*EVERY).splitlines() if line.endswith(f" {LINK}"))
    other.host.run("kill", "-9", pid)
    wait_for("the interface goes with its process", lambda: LINK not in other.host.run("ip", "-br", "link"))
    other.host.run("rm", "-f", f"/run/wireguard/{LINK}.sock")
    again = Side(pair[1], programs[1], 2)
    again.private = other.private
    again.host.run("wg", "set", LINK, "private-key", "/dev/stdin", text=text(again.private))
    again.peer(one, "192.0.2.1")
    assert again.ping(one) == 0, "it has no session: it makes one at once"
    assert one.ping(again) == 0


@pytest.mark.parametrize("outside", ["192.0.2.2", "2001:db8::2"], ids=["v4", "v6"])
def test_a_route_that_leads_a_tunnel_into_itself_stops_it_and_one_that_goes_brings_it_back(
    pair: tuple[Host, Host], outside: str
) -> None:
    """Nothing but the route changes: no endpoint, no allowed IP."""
    one, other = Side(pair[0], OURS, 1), Side(pair[1], GO, 2)
    one.peer(other, None)
    other.peer(one, None)
    at = f"[{outside}]" if ":" in outside else outside
    one.host.run(
        "wg", "set", LINK, "peer", other.key, "allowed-ips", "0.0.0.0/0,::/0", "endpoint", f"{at}:{PORT}"
    )
    assert one.ping(other) == 0

    def endpoint() -> str:
        return one.host.run("wg", "show", LINK, "endpoints").split()[-1]

    def carried() -> int:
        said = json.loads(one.host.run("ip", "-j", "-s", "link", "show", LINK))
        return int(said[0]["stats64"]["tx"]["packets"])

    before = carried()
    one.host.run("ip", "route", "add", outside, "dev", LINK)
    wait_for("the endpoint is put aside", lambda: endpoint() == "(none)")
    one.host.run("ping", "-c", "1", "-s", "1000", "-W", "1", "10.77.0.2", check=False)
    assert carried() - before < LOOP
    one.host.run("ip", "route", "del", outside, "dev", LINK)
    wait_for("it is good again", lambda: endpoint() == f"{at}:{PORT}")
    assert one.ping(other) == 0
