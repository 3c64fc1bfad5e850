"""What is foreign on a host, read from the texts that the kernel and the hosts file are."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from netctl.engine.hosts import BEGIN, END, HostsFile, foreign_names
from netctl.engine.links.foreignscan import routes4, routes6

# proc(5): /proc/net/route has addresses in the byte order of the machine, here a little-endian one.
ROUTE = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t80004D0A\t00000000\t0001\t0\t0\t50\t80FFFFFF\t0\t0\t0
*\t0000090A\t00000000\t0200\t0\t0\t0\tC0FFFFFF\t0\t0\t0
"""
ZERO = "0" * 32
ROUTE6 = f"""fd000077000000000000000000000000 40 {ZERO} 00 {ZERO} 00000100 00000001 00000000 00000001     eth0
fd000077000000000000000000000001 80 {ZERO} 00 {ZERO} 00000000 00000003 00000000 80200001       lo
fd000077000000000000000000000002 80 {ZERO} 00 {ZERO} 00000000 00000003 00000000 80200001     eth0
fd000077000000000000000000000000 80 {ZERO} 00 {ZERO} 00000000 00000003 00000000 80300001     eth0
"""


def test_ipv4_routes() -> None:
    assert [(str(prefix), link) for prefix, link in routes4(ROUTE, {"eth0", "*"})] == [
        ("0.0.0.0/0", "eth0"),
        ("10.77.0.128/25", "eth0"),
        ("10.9.0.0/26", "*"),
    ]
    assert list(routes4("", ())) == []


def test_ipv6_routes_and_addresses_without_anycast_and_old_kernels_lo() -> None:
    assert [(str(prefix), link, address) for prefix, link, address in routes6(ROUTE6, {"eth0"})] == [
        ("fd00:77::/64", "eth0", False),
        ("fd00:77::2/128", "eth0", True),
    ]


def test_routes_of_ours_to_single_addresses_are_not_even_looked_at() -> None:
    host = "nctl0\t0100090A\t00000000\t0001\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n"
    assert len(list(routes4(ROUTE + host, {"eth0", "*"}))) == 3
    assert len(list(routes4(ROUTE + host, {"eth0", "*", "nctl0"}))) == 4
    assert len(list(routes6(ROUTE6, ()))) == 1, "the pool stays: it says that a network is up"


def test_names_of_ours_on_lines_that_are_not(tmp_path: Path) -> None:
    text = "\n".join(
        [
            "127.0.0.1 localhost",
            "192.0.2.1 nas.office.netctl # 192.0.2.9 x.office.netctl",
            BEGIN,
            "10.8.0.2\tnas.office.netctl",
            END,
            "# 192.0.2.3 a.office.netctl",
            "nonsense b.office.netctl",
            "192.0.2.4 other c.office.netctl",
        ]
    )
    found = foreign_names(text, "netctl")
    assert [(one.line, one.name, str(one.address)) for one in found] == [
        (2, "nas.office.netctl", "192.0.2.1"),
        (8, "c.office.netctl", "192.0.2.4"),
    ]
    file = tmp_path / "hosts"
    assert HostsFile(file).foreign("netctl") == ()
    file.write_bytes(b"\xff\xfe")
    assert HostsFile(file).foreign("netctl") == ()
    assert ipaddress.ip_address("192.0.2.1") == found[0].address
