"""LANs behind members and hubs between them, with real packets.

one ─┐                 ┌─ 192.168.77.0/24, fd77::/64 ── nas (no member)
     internet ── gate ─┘
three ┘
"""

from __future__ import annotations

import pytest

from tests.netns.forgekit import packet, seen
from tests.netns.netkit import Members, answered, call, internet, members, pings, serving, transfer
from tests.support.hosts import Host, join, needs_namespaces

pytestmark = [pytest.mark.netns, needs_namespaces]

NAS = {4: "192.168.77.9", 6: "fd77::9"}
GATE = {4: "192.168.77.1", 6: "fd77::1"}
ONE = {4: "10.8.0.1", 6: "fd00:8::1"}
GATE_INSIDE = {4: "10.8.0.2", 6: "fd00:8::2"}
THREE = {4: "10.8.0.3", 6: "fd00:8::3"}
ADDRESSES = (
    'addresses: {one: [10.8.0.1, "fd00:8::1"], gate: [10.8.0.2, "fd00:8::2"], three: [10.8.0.3, "fd00:8::3"]}'
)


def site(there: Members, *names: str) -> None:
    """The hosts of the picture."""
    internet(there, *names)
    nas = there.add("nas")
    join(there["gate"], nas, f"{GATE[4]}/24", f"{NAS[4]}/24", "lan0")
    for host, address in ((there["gate"], GATE[6]), (nas, NAS[6])):
        host.run("ip", "addr", "add", f"{address}/64", "dev", "lan0", "nodad")


def document(there: Members, *more: str, mtu: int | None = None) -> str:
    lines = ["mode: routed", "ipv4: 10.8.0.0/24", 'ipv6: "fd00:8::/64"', 'members: ["*"]', ADDRESSES, *more]
    said = {name: there.endpoint(name) for name in there.public}
    said["gate"] += ', routes: [192.168.77.0/24, "fd77::/64"]' + (f", mtu: {mtu}" if mtu else "")
    return there.document(said, "  office:\n" + "".join(f"    {line}\n" for line in lines))


def route_back(there: Members) -> None:
    """What an administrator of the LAN does where a gateway does not masquerade."""
    there["nas"].run("ip", "route", "add", "10.8.0.0/24", "via", GATE[4])
    there["nas"].run("ip", "-6", "route", "add", "fd00:8::/64", "via", GATE[6])


@pytest.mark.parametrize("masquerade", [False, True])
def test_a_lan_behind_a_member(masquerade: bool) -> None:
    """Members reach it, by IPv4 and IPv6; it sees who they are, or the gateway alone."""
    with members("one", "gate", "three") as there:
        site(there, "one", "gate", "three")
        there.apply(document(there, f"masquerade: {str(masquerade).lower()}"))
        one, nas = there["one"], there["nas"]
        if not masquerade:
            assert not pings(one, NAS[4], tries=1), "the LAN does not know the way back"
            route_back(there)
        for version in (4, 6):
            assert pings(one, NAS[version])
            seen = GATE[version] if masquerade else ONE[version]
            with serving(nas, NAS[version], 80):
                assert answered(one, NAS[version], 80) == seen
            transfer(one, nas, NAS[version])
            # From the LAN: where it knows a way to them.
            with serving(one, ONE[version], 80):
                seen_as = (call if masquerade else answered)(nas, ONE[version], 80)
                assert seen_as == (None if masquerade else NAS[version])
        counted = there["gate"].run("cat", "/proc/sys/net/ipv4/ip_forward").strip()
        assert counted == "1"


@pytest.mark.parametrize("masquerade", [False, True])
def test_acls_hold_at_the_gateway(masquerade: bool) -> None:
    """One member reaches one port of one machine behind it; another, and another port, do not come through."""
    rules = "\n".join(
        [
            "acls:",
            '      - {name: nas4, src: [one], dst: ["192.168.77.9/32"], proto: tcp, ports: [80]}',
            '      - {name: nas6, src: [one], dst: ["fd77::9/128"], proto: tcp, ports: [80]}',
        ]
    )
    with members("one", "gate", "three") as there:
        site(there, "one", "gate", "three")
        route_back(there)
        there.apply(document(there, f"masquerade: {str(masquerade).lower()}", rules))
        one, three, nas = there["one"], there["three"], there["nas"]
        for version in (4, 6):
            with serving(nas, NAS[version], 80, 81), serving(one, ONE[version], 80):
                assert answered(one, NAS[version], 80)
                assert call(one, NAS[version], 81) is None
                assert call(three, NAS[version], 80) is None
                assert call(nas, ONE[version], 80) is None, "no rule lets the LAN begin"
            assert not pings(one, NAS[version], tries=1)


def test_a_full_packet_from_the_lan_is_told_the_size_of_the_tunnel() -> None:
    """Path MTU discovery works through a gateway: its link is narrower than the LAN."""
    with members("one", "gate") as there:
        site(there, "one", "gate")
        route_back(there)
        lines = document(there, mtu=1312).replace(', three: [10.8.0.3, "fd00:8::3"]', "")
        there.apply(lines)
        nas = there["nas"]
        for version, headers in ((4, 28), (6, 48)):
            whole = ("ping", "-n", "-c1", "-W20", "-M", "do", "-s")
            said = nas.run(*whole, str(1500 - headers), ONE[version], check=False)
            assert "1312" in said, said
            assert pings(nas, ONE[version], "-M", "do", "-s", str(1312 - headers))
            assert not pings(nas, ONE[version], "-M", "do", "-s", str(1313 - headers), tries=1)
            sizes = transfer(there["one"], nas, NAS[version])
            assert max(sizes) <= 1312 - headers + 8 - 20


def test_spokes_reach_each_other_through_the_hub_alone() -> None:
    """Real packets of both families: two tunnels, none between the spokes, the LAN behind one of them too."""
    with members("one", "gate", "three") as there:
        site(there, "one", "gate", "three")
        route_back(there)
        text = document(there, "topology: {hub: three}")
        there.apply(text)
        one, hub = there["one"], there["three"]
        assert one.run("wg", "show", "nctl0", "peers").split() == [there.public["three"]]
        assert len(hub.run("wg", "show", "nctl0", "peers").split()) == 2
        for version in (4, 6):
            assert pings(one, THREE[version])
            assert pings(one, GATE_INSIDE[version])
            assert pings(one, NAS[version])
            with serving(there["nas"], NAS[version], 80):
                assert answered(one, NAS[version], 80) == ONE[version]
            with serving(one, ONE[version], 80):
                assert answered(there["gate"], ONE[version], 80) == GATE_INSIDE[version]
            before = tunnelled(hub)
            transfer(one, there["gate"], GATE_INSIDE[version])
            assert tunnelled(hub) - before > 1 << 20


def tunnelled(host: Host) -> int:
    return sum(int(row.split()[2]) for row in host.run("wg", "show", "nctl0", "transfer").splitlines())


def test_acls_hold_at_the_hub_and_at_the_spoke() -> None:
    rules = "acls: [{name: web, src: [one], dst: [gate], proto: tcp, ports: [80]}]"
    with members("one", "gate", "three") as there:
        site(there, "one", "gate", "three")
        there.apply(document(there, "topology: {hub: three}", rules))
        for version in (4, 6):
            with (
                serving(there["gate"], GATE_INSIDE[version], 80, 81),
                serving(there["one"], ONE[version], 80),
            ):
                assert answered(there["one"], GATE_INSIDE[version], 80) == ONE[version]
                assert call(there["one"], GATE_INSIDE[version], 81) is None
                assert call(there["gate"], ONE[version], 80) is None
                assert call(there["three"], GATE_INSIDE[version], 80) is None


def test_a_hub_with_a_narrow_way_tells_the_spokes() -> None:
    """The path through it is narrower than both ends: path MTU discovery finds it, and TCP goes on."""
    with members("one", "gate", "three") as there:
        site(there, "one", "gate", "three")
        text = document(there, "topology: {hub: three}")
        there.apply(text.replace(there.endpoint("three"), f"mtu: 1312, {there.endpoint('three')}"))
        one = there["one"]
        for version, headers in ((4, 28), (6, 48)):
            assert pings(one, GATE_INSIDE[version])
            said = one.run(
                "ping",
                "-n",
                "-c1",
                "-W20",
                "-M",
                "do",
                "-s",
                str(1420 - headers),
                GATE_INSIDE[version],
                check=False,
            )
            assert "1312" in said, said
            sizes = transfer(one, there["gate"], GATE_INSIDE[version])
            assert max(sizes) <= 1312 - headers + 8 - 20


def test_a_spoke_is_nobody_else_to_the_hub_and_behind_it() -> None:
    """Forged sources between good ones, to the hub, to another spoke and to the LAN behind that."""
    with members("one", "gate", "three") as there:
        site(there, "one", "gate", "three")
        route_back(there)
        there.apply(document(there, "topology: {hub: three}"))
        one, hub, gate = there["one"], there["three"], there["gate"]
        for target, at in ((hub, THREE), (gate, GATE_INSIDE), (gate, NAS)):
            assert all(pings(one, at[version]) for version in (4, 6))
            packets: list[bytes] = []
            good: list[str] = []
            for version in (4, 6):
                outside = {4: "192.0.2.1", 6: "2001:db8::1"}[version]
                for forged in (GATE_INSIDE[version], THREE[version], NAS[version], outside):
                    good.append(str(len(packets)))
                    packets.append(packet(ONE[version], at[version], good[-1]))
                    packets.append(packet(forged, at[version], f"forged {forged}"))
            packets.append(packet(ONE[4], at[4], "last"))
            assert seen(one, target, packets) == [*good, "last"]
