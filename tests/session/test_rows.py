"""A view as rows is the same view, in parts that fit a frame, and in at most 400 kB for 5,000 members."""

from __future__ import annotations

from ipaddress import IPv6Network, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.model.derive import member_ipv6
from netctl.model.errors import RemoteError
from netctl.model.keys import WireGuardKey
from netctl.model.view import Lease, View, ViewMember
from netctl.session.rows import RowMember, lease_text, make_rows, read_rows
from netctl.wire import control as w
from netctl.wire.frame import LIMIT_AFTER_LOGIN
from tests.session.loginkit import KEY

PREFIX = IPv6Network("fd2b:5347:628b:ce5e::/64")
PREFIXES = {"lan": PREFIX, "work": IPv6Network("fd00:1::/48"), "old": None}


def key(number: int) -> WireGuardKey:
    return WireGuardKey(number.to_bytes(2, "big") * 16)


def sent(view: View) -> list[w.ViewRows]:
    """The view as its parts arrive."""
    networks = sorted({network for network, _ in view.leases})
    members = [
        RowMember(
            view.members[key].name,
            str(key),
            [
                (network, lease_text(view.leases[network, key].addresses, PREFIXES[network], key))
                for network in networks
                if (network, key) in view.leases
            ],
        )
        for key in sorted(view.members)
    ]
    prefixes = {network: str(prefix or "") for network, prefix in PREFIXES.items()}
    parts = []
    for part in make_rows(members, prefixes, view.document):
        payload = w.encode(part)
        assert len(payload) < LIMIT_AFTER_LOGIN
        message = w.decode(payload)
        assert isinstance(message, w.ViewRows)
        parts.append(message)
    assert [(part.part, part.parts) for part in parts] == [(n, len(parts)) for n in range(len(parts))]
    return parts


def view_of(held: dict[int, dict[str, list[str]]], document: str = "") -> View:
    members = {key(number): ViewMember(f"m{number}", key(number)) for number in held}
    leases = {}
    for number, networks in held.items():
        for network, texts in networks.items():
            prefix, mine = PREFIXES[network], key(number)
            addresses = tuple(
                member_ipv6(prefix, mine) if text == "+" and prefix is not None else ip_address(text)
                for text in texts
            )
            leases[network, mine] = Lease(network, mine, addresses)
    return View(0, members, leases, document)


ADDRESSES = st.sampled_from(
    [[], ["10.0.0.1"], ["10.0.0.1", "+"], ["+"], ["fd00::1"], ["10.255.255.255", "fd00::1"]]
)
HELD = st.dictionaries(
    st.integers(1, 60_000),
    st.dictionaries(st.sampled_from(sorted(PREFIXES)), ADDRESSES, max_size=3),
    max_size=12,
)


@given(HELD, st.text(max_size=40))
@settings(max_examples=60, deadline=None)
def test_what_is_sent_as_rows_is_read_as_the_same_view(
    held: dict[int, dict[str, list[str]]], text: str
) -> None:
    held = {
        number: {name: texts for name, texts in networks.items() if PREFIXES[name] or "+" not in texts}
        for number, networks in held.items()
    }
    view = view_of(held, text)
    assert read_rows(sent(view)) == view


def test_5000_members_of_a_network_take_less_than_400_kb() -> None:
    held = {n: {"lan": [f"10.0.{n // 250}.{n % 250 + 1}", "+"]} for n in range(5000)}
    parts = sent(view_of(held))
    assert len(parts) > 1
    assert sum(len(w.encode(part)) for part in parts) < 400_000


def test_a_member_of_more_networks_than_a_part_has_room_for_is_in_several_parts() -> None:
    texts = [(f"n{number}", "10.1.2.3 fd00:1111:2222:3333:4444:5555:6666:7777") for number in range(2000)]
    prefixes = {name: "fd00:1111:2222:3333::/64" for name, _ in texts}
    parts = make_rows([RowMember("ann", str(KEY), texts), RowMember("bob", str(key(9)), [])], prefixes, "")
    assert len(parts) > 1
    assert all(len(w.encode(part)) < LIMIT_AFTER_LOGIN for part in parts)
    view = read_rows(parts)
    assert sorted(member.name for member in view.members.values()) == ["ann", "bob"]
    assert len(view.leases) == len(texts)


def test_a_long_excerpt_has_parts_of_its_own() -> None:
    view = view_of({1: {}}, "x" * 50_000)
    parts = sent(view)
    assert len(parts) == 3
    assert read_rows(parts) == view


@pytest.mark.parametrize(
    "leases",
    [
        "1 10.0.0.1",
        "-1 10.0.0.1",
        "x",
        " ",
        ",",
        "0 10.0.0.1,",
        "0  10.0.0.1",
        "0 10.0.0",
        "0 +1",
        "0 fe80::1%eth0",
        "0 10.0.0.1 10.0.0.2 10.0.0.3",
        "²",
        "9" * 5000,
    ],
)
def test_a_bad_lease_is_refused(leases: str) -> None:
    with pytest.raises(RemoteError):
        read_rows([w.ViewRows(0, 1, [w.RowNetwork("lan", str(PREFIX))], [w.Row("ann", str(KEY), leases)])])


@pytest.mark.parametrize("prefix", ["10.0.0.0/8", "fd00::1/64", "fd00::/129", "x", "fe80::%eth0/64"])
def test_a_bad_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(RemoteError):
        read_rows([w.ViewRows(0, 1, [w.RowNetwork("lan", prefix)], [])])


def test_a_derived_address_without_a_prefix_is_refused() -> None:
    with pytest.raises(RemoteError):
        read_rows([w.ViewRows(0, 1, [w.RowNetwork("lan", "")], [w.Row("ann", str(KEY), "0 +")])])


def test_the_widest_prefix_that_there_is_gives_an_address() -> None:
    view = read_rows([w.ViewRows(0, 1, [w.RowNetwork("lan", "::/0")], [w.Row("ann", str(KEY), "0 +")])])
    assert view.leases["lan", KEY].addresses
