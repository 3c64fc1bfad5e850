"""UAPI text: in, out, and never a crash."""

from __future__ import annotations

import errno
from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.model.addresses import SocketAddress
from netctl.tunnel import Device
from netctl.tunnel.constants import MAX_PEERS
from netctl.wg import uapi
from netctl.wg.configure import answer_get, apply, status
from netctl.wg.uapi import AllowedIpChange, SetParser, UapiError, parse_allowed_ip, parse_endpoint, parse_set

A, B = "ab" * 32, "cd" * 32
PSK = "11" * 32


class FakeShell:
    """A shell of one real device, with a system that refuses on demand."""

    def __init__(self) -> None:
        self.device = Device(None, lambda n: bytes(range(n % 256)) if n < 256 else bytes(n))
        self.listen_port = 0
        self.fwmark = 0
        self.ports_taken: set[int] = set()
        self.marks_refused = False
        self.data_path = "none"
        self.faults = 0

    def set_listen_port(self, port: int) -> None:
        if port in self.ports_taken:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        self.listen_port = port

    def set_fwmark(self, mark: int) -> None:
        if self.marks_refused:
            raise OSError(errno.EPERM, "Operation not permitted")
        self.fwmark = mark

    def now(self) -> float:
        return 100.0


def do(shell: FakeShell, text: str) -> None:
    apply(shell, parse_set(text.split()))


def get(shell: FakeShell) -> str:
    return "".join(answer_get(shell))


FULL = f"""private_key={"77" * 32} listen_port=51820 fwmark=16 replace_peers=true
public_key={A} protocol_version=1 preshared_key={PSK} endpoint=[2001:db8::1]:9 persistent_keepalive_interval=25
replace_allowed_ips=true allowed_ip=10.0.0.7/8 allowed_ip=fd00::/64 public_key={B} endpoint=192.0.2.1:7"""


def test_everything_set_is_everything_read() -> None:
    shell = FakeShell()
    do(shell, FULL)
    assert get(shell) == (
        f"private_key={'77' * 32}\nlisten_port=51820\nfwmark=16\n"
        f"public_key={A}\npreshared_key={PSK}\nprotocol_version=1\nendpoint=[2001:db8::1]:9\n"
        "last_handshake_time_sec=0\nlast_handshake_time_nsec=0\ntx_bytes=0\nrx_bytes=0\n"
        "persistent_keepalive_interval=25\nallowed_ip=10.0.0.0/8\nallowed_ip=fd00::/64\n"
        f"public_key={B}\npreshared_key={'00' * 32}\nprotocol_version=1\nendpoint=192.0.2.1:7\n"
        "last_handshake_time_sec=0\nlast_handshake_time_nsec=0\ntx_bytes=0\nrx_bytes=0\n"
        "persistent_keepalive_interval=0\nerrno=0\n\n"
    )
    assert shell.device.next_timer() == 100.0  # the keepalive asks for a handshake now


def test_nothing_set_reads_as_nothing() -> None:
    assert get(FakeShell()) == "errno=0\n\n"


def test_counters_and_handshake_time() -> None:
    shell = FakeShell()
    do(shell, f"public_key={A}")
    peer = shell.device.peers[bytes.fromhex(A)]
    peer.rx_bytes, peer.tx_bytes, peer.last_handshake = 1 << 40, 7, 1_700_000_000.5
    text = uapi.format_peer(status(shell.device, peer))
    assert "last_handshake_time_sec=1700000000\nlast_handshake_time_nsec=500000000\n" in text
    assert f"tx_bytes=7\nrx_bytes={1 << 40}\n" in text


def prefixes(shell: FakeShell, key: str) -> set[str]:
    return {str(p) for p in shell.device.allowed_ips.prefixes(shell.device.peers[bytes.fromhex(key)])}


def test_allowed_ips_add_replace_remove_and_move() -> None:
    shell = FakeShell()
    do(shell, f"public_key={A} allowed_ip=10.0.0.0/8 allowed_ip=10.1.0.0/16")
    do(shell, f"public_key={A} allowed_ip=-10.0.0.0/8 allowed_ip=-172.16.0.0/12")
    assert prefixes(shell, A) == {"10.1.0.0/16"}
    do(shell, f"public_key={B} allowed_ip=10.1.0.0/16 allowed_ip=10.2.0.0/16")
    assert prefixes(shell, A) == set()
    do(shell, f"public_key={B} allowed_ip=10.9.0.0/16 replace_allowed_ips=true allowed_ip=10.3.0.0/16")
    assert prefixes(shell, B) == {"10.3.0.0/16"}


def test_remove_update_only_and_replace_peers() -> None:
    shell = FakeShell()
    do(shell, f"public_key={A} update_only=true endpoint=192.0.2.1:7")
    assert not shell.device.peers
    do(shell, f"public_key={A} public_key={B}")
    do(shell, f"public_key={A} update_only=true persistent_keepalive_interval=9 public_key={B} remove=true")
    assert [p.keepalive_s for p in shell.device.peers.values()] == [9]
    do(shell, f"replace_peers=true public_key={B}")
    assert set(shell.device.peers) == {bytes.fromhex(B)}
    do(shell, f"public_key={B} remove=true public_key={B}")
    assert set(shell.device.peers) == {bytes.fromhex(B)}


def test_our_own_key_is_no_peer_and_zeros_clear_the_private_key() -> None:
    shell = FakeShell()
    do(shell, f"private_key={'77' * 32}")
    assert shell.device.public_key is not None
    do(shell, f"public_key={shell.device.public_key.hex()} allowed_ip=10.0.0.0/8")
    assert not shell.device.peers
    do(shell, f"private_key={'00' * 32}")
    assert shell.device.private_key is None


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("private_key=xy", errno.EINVAL),
        (f"private_key={'0' * 63}x", errno.EINVAL),
        ("listen_port=65536", errno.EINVAL),
        ("listen_port=-1", errno.EINVAL),
        ("listen_port=1_0", errno.EINVAL),
        ("listen_port=", errno.EINVAL),
        ("fwmark=4294967296", errno.EINVAL),
        ("replace_peers=false", errno.EINVAL),
        ("endpoint=192.0.2.1:1", errno.EINVAL),
        ("colour=blue", errno.EINVAL),
        ("nonsense", errno.EPROTO),
        (f"public_key={A} endpoint=example.com:1", errno.EINVAL),
        (f"public_key={A} endpoint=2001:db8::1:1", errno.EINVAL),
        (f"public_key={A} endpoint=[192.0.2.1]:1", errno.EINVAL),
        (f"public_key={A} endpoint=192.0.2.1", errno.EINVAL),
        (f"public_key={A} allowed_ip=10.0.0.0", errno.EINVAL),
        (f"public_key={A} allowed_ip=10.0.0.0/33", errno.EINVAL),
        (f"public_key={A} allowed_ip=10.0.0.0/255.0.0.0", errno.EINVAL),
        (f"public_key={A} allowed_ip=--10.0.0.0/8", errno.EINVAL),
        (f"public_key={A} persistent_keepalive_interval=65536", errno.EINVAL),
        (f"public_key={A} remove=1", errno.EINVAL),
        (f"public_key={A} protocol_version=2", errno.EINVAL),
        (f"public_key={A} listen_port=1", errno.EINVAL),
    ],
)
def test_a_bad_line_refuses_the_whole_request(line: str, code: int) -> None:
    shell = FakeShell()
    do(shell, FULL)
    before = get(shell)
    with pytest.raises(UapiError) as refused:
        do(shell, f"listen_port=1 fwmark=2 {line} public_key={B}")
    assert refused.value.code == -code
    assert get(shell) == before


def test_what_the_system_refuses_changes_nothing() -> None:
    shell = FakeShell()
    do(shell, FULL)
    before = get(shell)
    shell.ports_taken.add(9)
    with pytest.raises(UapiError) as refused:
        do(shell, f"fwmark=3 listen_port=9 replace_peers=true private_key={'55' * 32}")
    assert refused.value.code == -errno.EADDRINUSE
    shell.marks_refused = True
    with pytest.raises(UapiError) as refused:
        do(shell, "listen_port=8 fwmark=3 replace_peers=true")
    assert refused.value.code == -errno.EPERM
    assert get(shell) == before


def test_too_many_peers_change_nothing() -> None:
    shell = FakeShell()
    request = parse_set(f"public_key={number:064x}" for number in range(1, MAX_PEERS + 2))
    with pytest.raises(UapiError) as refused:
        apply(shell, request)
    assert refused.value.code == -errno.ENOBUFS
    assert not shell.device.peers


def test_endpoints_keep_their_scope_and_mapped_ones_become_ipv4() -> None:
    assert str(parse_endpoint("[fe80::1%eth0]:51820")) == "[fe80::1%eth0]:51820"
    assert parse_endpoint("[::ffff:192.0.2.1]:7") == SocketAddress("192.0.2.1", 7)


@given(st.ip_addresses(), st.integers(0, 128), st.booleans())
@settings(max_examples=60)
def test_allowed_ips_are_masked_as_ip_network_does(address: object, length: int, remove: bool) -> None:
    text = f"{address}/{length}"
    try:
        wanted = ip_network(text, strict=False)
    except ValueError:
        with pytest.raises(ValueError):
            parse_allowed_ip(text)
        return
    assert parse_allowed_ip("-" * remove + text) == AllowedIpChange(wanted, remove)


KEYS = ["private_key", "listen_port", "fwmark", "replace_peers", "public_key", "remove", "update_only"]
KEYS += ["preshared_key", "endpoint", "persistent_keepalive_interval", "replace_allowed_ips", "allowed_ip"]
KEYS += ["protocol_version", "unknown", ""]
VALUES = [
    "true",
    "1",
    "0",
    "65535",
    A,
    B,
    "0" * 64,
    "[::1]:5",
    "192.0.2.1:9",
    "10.0.0.0/8",
    "-10.0.0.0/8",
    "٣",
    "",
]
LINES = st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES) | st.text(max_size=30)).map("=".join)


@given(st.lists(LINES | st.text(max_size=30), max_size=12))
@settings(max_examples=200)
def test_any_text_is_applied_whole_or_not_at_all(lines: list[str]) -> None:
    shell = FakeShell()
    do(shell, FULL)
    before = get(shell)
    code = 0
    try:
        apply(shell, parse_set(lines))
    except UapiError as error:
        code = error.code
    assert code <= 0
    assert code == 0 or get(shell) == before
    text = get(shell)
    assert text.endswith("errno=0\n\n")
    # What we print is a request that we take: the state is its own fixed point.
    other = FakeShell()
    skipped = ("last_handshake", "tx_bytes", "rx_bytes", "errno")
    do(other, " ".join(line for line in text.split() if not line.startswith(skipped)))
    assert get(other) == text


def test_a_refused_request_stops_growing() -> None:
    parser = SetParser()
    for number in range(1000):
        parser.feed(f"public_key={number:064x}")
    parser.feed("bad")
    for number in range(1000):
        parser.feed(f"public_key={number:064x}")
    assert parser._request.peers == []
    with pytest.raises(UapiError):
        parser.finish()
