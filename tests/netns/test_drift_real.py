"""Hands change a host: `status` says where it departs from the document, and `drift: correct` puts it right."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns.driftkit import SEGMENT, Member
from tests.support.hosts import needs_namespaces
from tests.support.patience import wait_for

pytestmark = [pytest.mark.netns, needs_namespaces]

RENAME = "ip link set {0} name mine || (ip link set {0} down; ip link set {0} name mine; ip link set mine up)"
"""A kernel before 6.2 renames only what is down."""
HANDS: dict[str, tuple[str, list[str], list[str]]] = {
    "a-wider-peer": (
        "wg set nctl0 peer {two} allowed-ips 10.8.0.2/32,198.51.100.0/24",
        ["members.two", "members.two.routes[0]", "networks.party.addresses.two"],
        ["SetPeer"],
    ),
    "a-pool-route-gone": ("ip route del 10.8.0.0/24", ["networks.office.ipv4"], ["SetRoute"]),
    "a-lan-route-gone": ("ip route del 192.168.77.0/24", ["members.two.routes[0]"], ["SetRoute"]),
    "a-member-route-gone": ("ip route del 10.9.0.2", ["networks.party.addresses.two"], ["SetRoute"]),
    "the-tunnel-link-down": ("ip link set nctl0 down", ["members.two.routes[0]"], ["SetRoute"]),
    "an-unreachable-route-gone": (
        "ip route del unreachable 10.8.0.0/24 metric 1073741824",
        ["networks.office.ipv4"],
        ["AddUnreachable"],
    ),
    "a-stray-peer": (
        "wg set nctl0 peer $(wg genkey | wg pubkey) allowed-ips 198.51.100.9/32",
        ["members"],
        ["RemovePeer"],
    ),
    "the-table-flushed": (
        "nft flush table inet netctl",
        ["networks.office.acls", "networks.party"],
        ["SetFilter"],
    ),
    "the-table-deleted": (
        "nft delete table inet netctl",
        ["networks.office.acls", "networks.party"],
        ["SetFilter"],
    ),
    "the-tunnel-link-renamed": (RENAME.format("nctl0"), ["members.one"], ["RenameLink"]),
    "a-segment-renamed": (RENAME.format(SEGMENT), ["networks.party.mode"], ["RenameLink"]),
    "an-address-gone": (
        "ip addr del 10.8.0.1/32 dev nctl0",
        ["networks.office.addresses.one"],
        ["AddAddress"],
    ),
    "another-mtu": ("ip link set nctl0 mtu 1300", ["members.one.mtu"], ["SetWireGuard"]),
    "a-segment-gone": (f"ip link del {SEGMENT}", ["networks.party.mode"], ["CreateSegment"]),
    "names-gone": (
        "sed '/party.netctl/d' /etc/hosts > /run/h; cat /run/h > /etc/hosts",
        ["networks.party.members"],
        ["SetNames"],
    ),
    "a-parameter": (
        f"echo 1 > /proc/sys/net/ipv4/conf/{SEGMENT}/rp_filter",
        ["networks.party.mode"],
        ["SetSysctl"],
    ),
}


@pytest.fixture(scope="module")
def reporting() -> Iterator[Member]:
    yield from member("report")


@pytest.fixture(scope="module")
def correcting() -> Iterator[Member]:
    yield from member("correct")


def member(drift: str) -> Iterator[Member]:
    one = Member(f"drift: {drift}\n")
    try:
        one.start_agent()
        one.netctl("apply")
        yield one
    finally:
        one.close()


def lay(one: Member, hand: str) -> None:
    command = HANDS[hand][0].format(two=one.public[1])
    if hand == "a-parameter":  # /proc/sys of a host's own network is seen from inside alone
        one.host.python("import sys; v, k = sys.argv[1:]; open(k, 'w').write(v)", *command[5:].split(" > "))
    else:
        one.host.run("sh", "-c", command)


@pytest.mark.parametrize("hand", HANDS)
def test_it_is_shown_with_its_place_and_left(reporting: Member, hand: str) -> None:
    one = reporting
    one.netctl("apply")
    wait_for("the host is as the document says", lambda: one.status()["drift"] == [])
    before = one.status()
    lay(one, hand)
    _, paths, kinds = HANDS[hand]

    def seen(what: str) -> set[str]:
        """Of all departures: `kind`, or each of `paths`."""
        found = [departure[what] for departure in one.status()["drift"]]
        return {text for each in found for text in ([each] if isinstance(each, str) else each)}

    # A look may fall into the middle of a hand.
    wait_for(f"{kinds} are seen", lambda: set(kinds) <= seen("kind"))
    wait_for(f"{paths} are named", lambda: set(paths) <= seen("paths"))
    assert "the host departs from the document at " in one.netctl("status")
    after = one.status()
    assert after["drift_found"] > before["drift_found"]
    assert after["drift_healed"] == before["drift_healed"] == 0
    again = one.netctl("apply")
    assert "applied: " in again, "it was left as it was until somebody applied"


@pytest.mark.parametrize("hand", HANDS)
def test_it_is_put_right_within_the_period(correcting: Member, hand: str) -> None:
    one = correcting
    before = one.status()["drift_healed"]
    lay(one, hand)
    wait_for("it is put right", lambda: one.status()["drift_healed"] > before)
    # A look that fell into the middle of a hand has put right a part of it.
    plan = one.host_command("plan")
    wait_for("all of it", lambda: "no changes" in one.host.run(*plan, check=False))
    assert one.status()["drift_failed"] == 0
