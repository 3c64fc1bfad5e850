"""Asks this host's kernel for the path MTU to an address (ip(7), ipv6(7))."""

from __future__ import annotations

import socket

from netctl.model.addresses import SocketAddress

_IP_MTU, _IPV6_MTU = 14, 24


def path_mtu(destination: SocketAddress) -> int | None:
    """The path MTU in bytes: the link's MTU, or less where a router has said so; None: no route. Sends nothing."""
    six = destination.is_ipv6
    level, option = (socket.IPPROTO_IPV6, _IPV6_MTU) if six else (socket.IPPROTO_IP, _IP_MTU)
    try:
        with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.connect((destination.host, destination.port))
            return asking.getsockopt(level, option)
    except OSError:
        return None
