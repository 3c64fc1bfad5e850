"""Which interface the kernel would send by, asked about loopback."""

from __future__ import annotations

import ipaddress
import socket

from netctl.wg.endpointroutes import _oif, interface_to


def test_loopback_is_reached_by_lo() -> None:
    lo = socket.if_nametoindex("lo")
    assert interface_to(ipaddress.ip_address("127.0.0.1")) == lo
    assert interface_to(ipaddress.ip_address("127.0.0.1"), mark=7) == lo


def test_what_is_no_answer_tells_nothing() -> None:
    for answer in (b"", b"\x00" * 15, b"\x00" * 64, b"\xff" * 64):
        assert _oif(answer) is None
