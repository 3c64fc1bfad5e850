"""MTUs: what fits through a way, and what a document may say."""

import pytest

from netctl.config import load_document
from netctl.config.load.limits import DEFAULT_MTU, PADDING, WIREGUARD_OVERHEAD, tunnel_mtu
from netctl.config.load.mtu import least_mtu, link_mtu

KEYS = ("oN9b+VcZct4Fqc0LWGekk0FboKkwHmJhBGo/bJHOfQo=", "2QXFkC/LG2cnD/JfGNoZzTDQWHo7Klrp1mu3DOgBYHA=")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("path", [1500, 1492, 1400, 1350, 1280])
@pytest.mark.parametrize("senders", [DEFAULT_MTU, 1280])
def test_no_padding_carries_a_packet_past_the_way(version: int, path: int, senders: int) -> None:
    """Of a sender whose own MTU is larger, too: it pads up to that (whitepaper §5.4.6)."""
    fits = tunnel_mtu(path, version)
    longest = min(fits, senders)
    padded = min(-(-longest // PADDING) * PADDING, senders)
    assert padded + WIREGUARD_OVERHEAD[version] <= path


def test_a_whole_ethernet_has_the_default() -> None:
    assert tunnel_mtu(1500, 6) == DEFAULT_MTU
    assert tunnel_mtu(9000, 4) > DEFAULT_MTU


def test_a_routed_network_narrows_the_tunnels_of_its_members() -> None:
    document = load_document(
        f"""
apiVersion: netctl/v1
members:
  one: {{wireguard: "{KEYS[0]}"}}
  two: {{wireguard: "{KEYS[1]}", mtu: 1360, endpoints: ["192.0.2.2:51820"]}}
networks:
  party: {{mode: lan, ipv4: 10.9.0.0/24, members: ["*"], mtu: 1280, addresses: {{one: 10.9.0.1, two: 10.9.0.2}}}}
  plain: {{mode: lan, ipv4: 10.7.0.0/24, ipv6: none, members: ["*"], addresses: {{one: 10.7.0.1, two: 10.7.0.2}}}}
  office: {{mode: routed, ipv4: 10.8.0.0/24, members: [one], mtu: 1380, addresses: {{one: 10.8.0.1}}}}
"""
    ).document
    assert document is not None
    assert link_mtu(document, document.members["one"]) == 1380
    assert link_mtu(document, document.members["two"]) == 1360
    assert [least_mtu(network)[0] for _, network in sorted(document.networks.items())] == [1280, 1350, 1280]
