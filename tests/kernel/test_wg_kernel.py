"""netctl-wg and the kernel's WireGuard, one in each of two namespaces; `wg` is the only tool.

Where this machine's kernel has no WireGuard, these run in the guest of `test_kernel_guest`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from netctl.engine.linux import kernel_has_wireguard
from tests.support.hosts import Host, join, needs_namespaces
from tests.support.patience import wait_for
from tests.support.wgside import KERNEL, LINK, OURS, Side, stream

pytestmark = [
    pytest.mark.kernel,
    needs_namespaces,
    pytest.mark.skipif(not kernel_has_wireguard(), reason="this kernel has no WireGuard"),
]

OUTSIDE = {"v4": ("192.0.2.1", "192.0.2.2"), "v6": ("[2001:db8::1]", "[2001:db8::2]")}
REKEY_AFTER_TIME_S = 120


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    one, other = Host("wg-kernel-1"), Host("wg-kernel-2")
    try:
        join(one, other, "192.0.2.1/24", "192.0.2.2/24")
        for host, address in ((one, "2001:db8::1/64"), (other, "2001:db8::2/64")):
            host.run("ip", "address", "add", address, "dev", "eth0", "nodad")
        yield one, other
    finally:
        one.close()
        other.close()


@pytest.fixture(scope="module")
def sides(hosts: tuple[Host, Host]) -> tuple[Side, Side]:
    """netctl-wg first, the kernel second. The kernel's side is told no endpoint: it learns it."""
    ours, kernels = Side(hosts[0], OURS, 1), Side(hosts[1], KERNEL, 2)
    kinds = hosts[1].run("ip", "-d", "link", "show", LINK)
    assert "wireguard" in kinds, kinds
    return ours, kernels


def handshake(side: Side) -> int:
    """Unix seconds of the last one."""
    return int(side.host.run("wg", "show", LINK, "latest-handshakes").split()[1])


def received(side: Side) -> int:
    return int(side.host.run("wg", "show", LINK, "transfer").split()[1])


def anew(side: Side, other: Side, outside: str | None, preshared_key: bytes | None) -> None:
    """The other as a new peer: no session, no endpoint that was learnt."""
    side.host.run("wg", "set", LINK, "peer", other.key, "remove")
    side.peer(other, outside, preshared_key)


@pytest.mark.parametrize(("first", "outside"), [("ours", "v4"), ("kernel", "v6")])
def test_either_initiates_and_all_gets_through(sides: tuple[Side, Side], first: str, outside: str) -> None:
    """With a pre-shared key, over IPv4 and IPv6 outside; ping over both inside, fragments, TCP both ways."""
    ours, kernels = sides
    psk, start = os.urandom(32), int(time.time())
    theirs = OUTSIDE[outside]
    anew(ours, kernels, theirs[1] if first == "ours" else None, psk)
    anew(kernels, ours, theirs[0] if first == "kernel" else None, psk)
    one, other = (ours, kernels) if first == "ours" else (kernels, ours)
    assert one.ping(other) == 0
    assert other.ping(one, "-s", "6000") == 0
    stream(ours, kernels)
    stream(kernels, ours)
    for side in sides:
        assert received(side) > 2_000_000
        assert start <= handshake(side) <= time.time()
        endpoint = side.host.run("wg", "show", LINK, "endpoints").split()[1]
        assert endpoint.startswith(theirs[1] if side is ours else theirs[0])


def test_a_wrong_preshared_key_lets_nothing_through(sides: tuple[Side, Side]) -> None:
    ours, kernels = sides
    anew(ours, kernels, OUTSIDE["v4"][1], os.urandom(32))
    anew(kernels, ours, None, os.urandom(32))
    assert "100% packet loss" in ours.host.run("ping", "-c", "1", "-W", "2", "10.77.0.2", check=False)
    assert handshake(kernels) == 0


@pytest.mark.parametrize("forgetful", ["ours", "kernel"])
def test_a_side_that_lost_its_session_makes_a_new_one(sides: tuple[Side, Side], forgetful: str) -> None:
    """The other goes over from the session that it has to the new one."""
    ours, kernels = sides
    psk = os.urandom(32)
    anew(ours, kernels, OUTSIDE["v4"][1], psk)
    anew(kernels, ours, OUTSIDE["v4"][0], psk)
    assert ours.ping(kernels) == 0
    before = handshake(ours)
    one, other = (ours, kernels) if forgetful == "ours" else (kernels, ours)
    wait_for("the next second", lambda: time.time() > before + 1.5)
    anew(one, other, OUTSIDE["v4"][1] if one is ours else OUTSIDE["v4"][0], psk)
    assert one.ping(other) == 0
    assert other.ping(one) == 0
    assert handshake(ours) > before
    assert handshake(kernels) > before


def test_rekey_by_time_loses_nothing(sides: tuple[Side, Side]) -> None:
    """Traffic across Rekey-After-Time (120 s): a new handshake, and every packet arrives."""
    ours, kernels = sides
    anew(ours, kernels, OUTSIDE["v4"][1], None)
    anew(kernels, ours, None, None)
    assert ours.ping(kernels) == 0
    before = handshake(ours)
    count = str(REKEY_AFTER_TIME_S + 12)
    said = ours.host.run("ping", "-q", "-c", count, "-W", "3", "10.77.0.2", timeout=REKEY_AFTER_TIME_S + 60)
    assert " 0% packet loss" in said, said
    assert handshake(ours) >= before + REKEY_AFTER_TIME_S
    assert handshake(kernels) >= before + REKEY_AFTER_TIME_S
