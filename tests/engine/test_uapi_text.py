"""The text of the cross-platform configuration protocol, both ways."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from netctl.engine.uapi import DeviceState, format_peer, parse_get
from netctl.model.addresses import SocketAddress
from netctl.model.errors import EngineError
from netctl.model.hoststate import Peer
from netctl.model.keys import WireGuardKey

ONE, TWO = WireGuardKey(b"\x01" * 32), WireGuardKey(b"\x02" * 32)
ANSWER = f"""private_key={"09" * 32}
listen_port=51820
public_key={ONE.raw.hex()}
preshared_key={"00" * 32}
protocol_version=1
endpoint=[2001:db8::1]:51820
last_handshake_time_sec=1700000000
last_handshake_time_nsec=500000000
tx_bytes=12
rx_bytes=34
persistent_keepalive_interval=25
allowed_ip=10.0.0.1/32
allowed_ip=fd00::1/128
public_key={TWO.raw.hex()}
endpoint=[fe80::1%3]:7
something_new=1
errno=0

"""


def test_an_answer_is_read_whole() -> None:
    device = parse_get(ANSWER)
    assert (device.private_key, device.listen_port) == (b"\x09" * 32, 51820)
    one, two = device.peers[ONE], device.peers[TWO]
    assert one.allowed_ips == {ip_network("10.0.0.1/32"), ip_network("fd00::1/128")}
    assert one.endpoint == SocketAddress("2001:db8::1", 51820)
    assert (one.last_handshake_s, one.tx_bytes, one.rx_bytes) == (1700000000.5, 12, 34)
    assert one.keepalive_s == 25
    assert two.endpoint == SocketAddress("fe80::1", 7)
    assert two.allowed_ips == set()


def test_an_empty_device_is_no_error() -> None:
    assert parse_get("errno=0\n\n") == DeviceState()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("errno=-1\n\n", "Operation not permitted"),
        ("errno=1\n\n", "Operation not permitted"),
        ("hello\n\n", "no key=value"),
        ("listen_port=many\n\n", "listen_port="),
        ("public_key=00\n\n", "public_key="),
        (f"public_key={'01' * 32}\nallowed_ip=10.0.0.1/99\n\n", "allowed_ip="),
    ],
)
def test_a_bad_answer_is_one_line(text: str, says: str) -> None:
    with pytest.raises(EngineError, match=says) as caught:
        parse_get(text)
    assert "\n" not in str(caught.value)


def test_a_peer_is_set_whole() -> None:
    peer = Peer(ONE, frozenset({ip_network("10.0.0.2/32"), ip_network("10.0.0.1/32")}), None, 25)
    assert format_peer(peer).splitlines() == [
        f"public_key={ONE.raw.hex()}",
        "persistent_keepalive_interval=25",
        "replace_allowed_ips=true",
        "allowed_ip=10.0.0.1/32",
        "allowed_ip=10.0.0.2/32",
    ]
