"""The texts that the engine reads and writes: UAPI, the hosts file, kernel parameters, nftables JSON."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.engine import addresstext
from netctl.engine.filter.ruleset import remove, render
from netctl.engine.hosts import BEGIN, END, HostsFile, parse_block, replace_block
from netctl.engine.nlsocket import MAX_NESTED, attributes, walk
from netctl.engine.sysctls import Sysctls
from netctl.engine.wireguard.kernel import ALLOWED_A_PART, KernelDriver
from netctl.engine.wireguard.uapiclient import (
    Answers,
    DeviceState,
    Openings,
    PeerState,
    format_peer,
    read_private_key,
)
from netctl.model.addresses import SocketAddress
from netctl.model.document import PortRange
from netctl.model.errors import EngineError
from netctl.model.hoststate import FilterRule, FilterTable, Peer, SourceBinding
from netctl.model.keys import WireGuardKey

KEY = WireGuardKey(hashlib.blake2s(b"peer").digest())
POOL = ipaddress.ip_network("10.9.0.0/24")

prefixes = st.frozensets(
    st.one_of(
        st.ip_addresses(v=4).map(ipaddress.ip_network),
        st.ip_addresses(v=6).map(ipaddress.ip_network),
        st.sampled_from([POOL, ipaddress.ip_network("fd00::/64"), ipaddress.ip_network("0.0.0.0/0")]),
    ),
    max_size=4,
)
endpoints = st.one_of(
    st.none(), st.builds(SocketAddress.of, st.ip_addresses(), st.integers(min_value=1, max_value=65535))
)


@settings(max_examples=60, deadline=None)
@given(prefixes, endpoints, st.integers(0, 65535))
def test_a_peer_reads_back_as_it_was_set(
    allowed: frozenset[ipaddress.IPv4Network], endpoint: SocketAddress | None, keepalive: int
) -> None:
    text = format_peer(Peer(KEY, allowed, endpoint, keepalive)).replace("replace_allowed_ips=true\n", "")
    peer = Answers().parse(text + "errno=0\n\n").peers[KEY]
    assert (frozenset(peer.allowed_ips), peer.endpoint, peer.keepalive_s) == (allowed, endpoint, keepalive)


def test_a_peer_is_set_without_touching_its_session() -> None:
    lines = format_peer(Peer(KEY, frozenset({POOL}), None, 25)).splitlines()
    assert lines[0] == f"public_key={KEY.raw.hex()}"
    assert "replace_allowed_ips=true" in lines
    assert not any(line.startswith(("remove", "endpoint", "replace_peers")) for line in lines)


def test_a_device_is_read_whole() -> None:
    text = (
        f"private_key={'01' * 32}\nlisten_port=51820\nfwmark=7\npublic_key={KEY.raw.hex()}\n"
        "endpoint=[fe80::1%eth0]:7\nlast_handshake_time_sec=10\nlast_handshake_time_nsec=500000000\n"
        "rx_bytes=3\ntx_bytes=4\nallowed_ip=10.9.0.0/24\nerrno=0\n\n"
    )
    device = Answers().parse(text)
    peer = device.peers[KEY]
    assert device.listen_port == 51820
    assert device.private_key == b"\x01" * 32
    assert peer.endpoint == SocketAddress("fe80::1", 7)
    assert (peer.last_handshake_s, peer.rx_bytes, peer.tx_bytes) == (10.5, 3, 4)


def test_only_what_has_changed_is_parsed_again() -> None:
    """Of thousands of peers most are idle."""
    other = WireGuardKey(bytes([7]) * 32)
    answers = Answers()

    def look(sent: int) -> tuple[PeerState, PeerState]:
        text = f"listen_port=7\npublic_key={KEY.raw.hex()}\nrx_bytes=3\nallowed_ip=10.9.0.0/24\n"
        found = answers.parse(f"{text}public_key={other.raw.hex()}\ntx_bytes={sent}\nerrno=0\n\n").peers
        return found[KEY], found[other]

    first, second = look(1), look(2)
    assert first[0] is second[0]
    assert (first[1].tx_bytes, second[1].tx_bytes) == (1, 2)
    assert answers.parse("listen_port=7\nerrno=0\n\n").peers == {}, "a peer that is gone is forgotten"
    assert look(2)[0] == first[0]


def test_the_text_of_an_answer_is_not_kept() -> None:
    """Of thousands of peers it is megabytes."""
    answers = Answers()
    answers.parse(f"public_key={KEY.raw.hex()}\nallowed_ip=10.9.0.0/24\nerrno=0\n\n")
    assert all(len(digest) == 16 for digest in answers._known)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("errno=1\n\n", "Operation not permitted"),
        ("nonsense\n\n", "no key=value"),
        ("listen_port=many\n\n", "listen_port= with a bad value"),
        ("public_key=00\n\n", "public_key= with a bad value"),
        (f"public_key={'00' * 32}\nallowed_ip=10.0.0.1/8\n\n", "allowed_ip= with a bad value"),
    ],
)
def test_a_bad_answer_is_an_error_that_names_the_line(text: str, says: str) -> None:
    with pytest.raises(EngineError, match=says):
        Answers().parse(text)


names = st.dictionaries(
    st.from_regex(r"[a-z]{1,8}\.net\.netctl", fullmatch=True),
    st.lists(st.ip_addresses(), min_size=1, max_size=3, unique=True).map(tuple),
    max_size=4,
)
foreign = st.lists(
    st.sampled_from(["127.0.0.1 localhost", "# a comment", "", "::1 localhost ip6-localhost", "10.1.1.1  x"]),
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(foreign, names, names)
def test_our_block_changes_and_nothing_else(
    lines: list[str],
    first: dict[str, tuple[ipaddress.IPv4Address]],
    second: dict[str, tuple[ipaddress.IPv4Address]],
) -> None:
    text = "".join(f"{line}\n" for line in lines)
    once = replace_block(text, first)
    assert parse_block(once) == first
    twice = replace_block(once, second)
    assert parse_block(twice) == second
    assert replace_block(twice, second) == twice
    assert replace_block(twice, {}) == text


def test_a_block_without_its_end_takes_no_foreign_line_away() -> None:
    text = f"127.0.0.1 localhost\n{BEGIN}\n10.1.1.1 somebody\n"
    after = replace_block(text, {"a.n.netctl": (ipaddress.ip_address("10.9.0.1"),)})
    assert "10.1.1.1 somebody" in after
    assert after.count(BEGIN) == after.count(END) == 1


def test_the_hosts_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 localhost\n")
    path.chmod(0o640)
    HostsFile(path).write({"a.n.netctl": (ipaddress.ip_address("10.9.0.1"),)})
    assert path.stat().st_mode & 0o777 == 0o640
    assert HostsFile(path).read() == {"a.n.netctl": (ipaddress.ip_address("10.9.0.1"),)}
    assert list(tmp_path.iterdir()) == [path]


def test_a_kernel_parameter_gets_its_first_value_back(tmp_path: Path) -> None:
    key = "net/ipv4/ip_forward"
    file = tmp_path / "proc" / key
    file.parent.mkdir(parents=True)
    file.write_text("0\n")
    for value in ("1", "2"):  # each by a new process: what was before us is on disk
        Sysctls(tmp_path / "saved.json", tmp_path / "proc").set(key, value, link_bound=False)
    sysctls = Sysctls(tmp_path / "saved.json", tmp_path / "proc")
    assert sysctls.read(frozenset()) == {key: "2"}
    sysctls.restore(key)
    assert file.read_text().strip() == "0"
    assert sysctls.read(frozenset()) == {}
    with pytest.raises(EngineError, match="no parameter net/ipv4/none"):
        sysctls.set("net/ipv4/none", "1", link_bound=False)


def test_a_key_file_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "wireguard.key"
    with pytest.raises(EngineError, match="netctl keys init"):
        read_private_key(path)
    for text in ("AAAA", "not base64!"):
        path.write_text(text)
        with pytest.raises(EngineError, match=r"private key|cannot be read"):
            read_private_key(path)


def table(**more: object) -> FilterTable:
    rule = FilterRule(
        "web", frozenset({POOL}), frozenset({POOL}), "tcp", (PortRange(80, 90), PortRange(85, 99))
    )
    return FilterTable(frozenset({"nctl0"}), (rule,), **more)  # type: ignore[arg-type]


def rules_of(rendered: dict[str, object], chain: str) -> list[dict[str, Any]]:
    commands = rendered["nftables"]
    assert isinstance(commands, list)
    found = [command["add"]["rule"] for command in commands if "rule" in command.get("add", {})]
    return [rule for rule in found if rule["chain"] == chain]


def test_a_table_replaces_itself_and_ends_in_default_deny() -> None:
    rendered = render(table())
    assert rendered["nftables"][:2] == remove()["nftables"], "one transaction: gone and there again"
    guard = rules_of(rendered, "guard")
    assert guard[-1]["expr"][-1] == {"drop": None}
    assert guard[-1]["comment"] == "default deny"
    sets = [c["add"]["set"] for c in rendered["nftables"] if "set" in c.get("add", {})]
    assert '{"range": [80, 99]}' in json.dumps(sets), "overlapping ranges become one: nft refuses them"


def test_segments_are_checked_before_what_is_established_passes() -> None:
    """A member's first good frame must not open the way for forged ones."""
    underlay = ipaddress.ip_address("fd00::2")
    binding = SourceBinding("nseg1", underlay, "02:00:00:00:00:02", frozenset({POOL[2]}), 77)
    for bindings, verdict in ((frozenset({binding}), "goto"), (frozenset(), "drop")):
        guard = rules_of(render(table(bindings=bindings)), "guard")
        texts = [json.dumps(rule) for rule in guard]
        vxlan = next(number for number, text in enumerate(texts) if "4789" in text)
        assert verdict in texts[vxlan]
        assert vxlan < next(number for number, text in enumerate(texts) if "established" in text)
    segments = rules_of(render(table(bindings=frozenset({binding}))), "segments")
    assert segments[-1]["expr"][-1] == {"drop": None}, "an unknown underlay address sends nothing"


@pytest.mark.parametrize("text", ["10.0.0.1", "fd00::1", "::", "255.255.255.255", "2001:db8:0:1::"])
def test_addresses_are_read_and_written_as_the_standard_library_does(text: str) -> None:
    """The C library's text and ours mean the same."""
    address = ipaddress.ip_address(text)
    assert addresstext.address(text) == address
    assert addresstext.print_address(address) == text
    whole = ipaddress.ip_network(text)
    assert addresstext.parse_prefix(addresstext.print_prefix(whole)) == whole


@pytest.mark.parametrize("text", ["", "10.0.0", "010.0.0.1", "10.0.0.1 ", "fd00::1%eth0", "fd00:::1", "name"])
def test_text_that_is_no_address_is_refused(text: str) -> None:
    """Other spellings of IPv4 too: an address has one text."""
    with pytest.raises(ValueError, match="not an address"):
        addresstext.address(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1:51820", SocketAddress("192.0.2.1", 51820)),
        ("[2001:DB8::1]:5", SocketAddress("2001:db8::1", 5)),
        ("[::ffff:192.0.2.1]:5", SocketAddress("192.0.2.1", 5)),
        ("[fe80::1%eth0.5]:5", SocketAddress("fe80::1", 5)),
        ("192.0.2.1:0", None),
        ("192.0.2.1:65536", None),
        ("192.0.2.1:+5", None),
        ("192.0.2.300:5", None),
        ("name.example:5", None),
        ("192.0.2.1", None),
    ],
)
def test_endpoints_as_engines_write_them(text: str, expected: SocketAddress | None) -> None:
    """A canonical address and a port, or nothing."""
    assert addresstext.endpoint(text) == expected


class Requests(KernelDriver):
    """Keeps its requests instead of sending them."""

    def __init__(self) -> None:
        self.interface = "nctl0"
        self.sent: list[bytes] = []
        self.device = DeviceState()
        self._openings = Openings()

    def read(self) -> DeviceState:
        return self.device

    def _set(self, what: str, *parts: bytes) -> None:
        self.sent += parts


def test_the_kernel_is_told_many_endpoints_in_few_requests() -> None:
    """Each request holds as many peers as a nested attribute may, and changes none that is gone."""
    keys = [WireGuardKey(number.to_bytes(32)) for number in range(3000)]
    endpoints = {key: SocketAddress("192.0.2.7", number + 1) for number, key in enumerate(keys)}
    driver = Requests()
    driver.steer({})
    assert driver.sent == []
    driver.steer(endpoints)
    assert 1 < len(driver.sent) < 10
    found: dict[WireGuardKey, int] = {}
    for request in driver.sent:
        ((_, peers),) = walk(request)
        assert len(peers) <= MAX_NESTED
        for _, raw in walk(peers):
            peer = attributes(raw)
            assert int.from_bytes(peer[3], sys.byteorder) == 4, "WGPEER_F_UPDATE_ONLY"
            found[WireGuardKey(peer[1])] = int.from_bytes(peer[4][2:4], "big")
    assert found == {key: place.port for key, place in endpoints.items()}


@pytest.mark.parametrize("count", [1, ALLOWED_A_PART + 1])
def test_the_kernel_forgets_a_handshake_in_one_request(count: int) -> None:
    """The peer is removed and added again with the rest that it had, and is away for nobody who reads the device."""
    key, other = WireGuardKey(bytes([1]) * 32), WireGuardKey(bytes([2]) * 32)
    allowed = frozenset(ipaddress.ip_network(f"10.{n // 250}.{n % 250}.1/32") for n in range(count))
    place, elsewhere = SocketAddress("192.0.2.7", 7), SocketAddress("192.0.2.8", 8)
    driver = Requests()
    driver.device.peers = {
        one: PeerState(tuple(allowed), place, 25, last_handshake_s=1.0, rx_bytes=1, tx_bytes=1)
        for one in (key, other)
    }
    driver.steer({key: elsewhere, other: elsewhere}, frozenset({key}))
    first, *more = [[attributes(raw) for _, raw in walk(peers)] for ((_, peers),) in map(walk, driver.sent)]
    moved, removed, added, *_ = first
    assert (WireGuardKey(moved[1]), moved[3]) == (other, (4).to_bytes(4, sys.byteorder))
    assert (WireGuardKey(removed[1]), removed[3]) == (key, (1 | 4).to_bytes(4, sys.byteorder))
    assert WireGuardKey(added[1]) == key
    assert int.from_bytes(added[4][2:4], "big") == elsewhere.port
    assert int.from_bytes(added[5], sys.byteorder) == 25
    parts = [added, *first[3:], *(part for request in more for part in request)]
    assert sum(len(list(walk(part[9]))) for part in parts) == count
    assert all(WireGuardKey(part[1]) == key for part in parts)
