"""Networks side by side with real packets: what reaches whom, in segments and routed, and what is forged."""

from __future__ import annotations

import json
import select
import sys
import time
from collections.abc import Iterator

import pytest

from netctl.model.derive import network_id, segment_name
from tests.netns.forgekit import packet, seen
from tests.netns.netkit import Members, internet, members, pings
from tests.support.hosts import Program, needs_namespaces
from tests.support.patience import BUSY_S

pytestmark = [pytest.mark.netns, needs_namespaces]

NAMES = ("one", "two", "three")
PARTY = segment_name(network_id("", "party"))
GROUP4, GROUP6 = "239.7.7.7", "ff02::7777"
IPX, OTHER = 0x8137, 0x88B5
EARS = """
import json, select, signal, socket, struct, sys
over, wanted = [], set(json.loads(sys.argv[2]))
signal.signal(signal.SIGTERM, lambda *_: over.append(1))
link = sys.argv[1]; index = socket.if_nametoindex(link)
four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); four.bind(('', 7777))
group = socket.inet_aton('239.7.7.7') + struct.pack('@ii', 0, index)
four.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1); six.bind(('::', 7777))
group = socket.inet_pton(socket.AF_INET6, 'ff02::7777') + struct.pack('@I', index)
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); raw.bind((link, 0))
print('up', flush=True)
found = set()
while True:
    if wanted and wanted <= found: wanted = print('all', flush=True)
    ready, _, _ = select.select([four, six, raw], [], [], 0.2)
    if over and not ready: break
    for ear in ready:
        data, about = ear.recvfrom(65535)
        if ear is not raw and data.startswith(b'cry '): found.add(data[4:].decode())
        elif ear is raw and about[2] != socket.PACKET_OUTGOING and b'frame ' in data:
            found.add(hex(struct.unpack('!H', data[12:14])[0]))
print(json.dumps(sorted(found)))
"""
CRY = """
import socket, struct, sys, time
link, broadcast = sys.argv[1:3]; index = socket.if_nametoindex(link)
four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
four.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
four.sendto(b'cry broadcast', (broadcast, 7777))
four.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack('@4s4si', bytes(4), bytes(4), index))
four.sendto(b'cry multicast4', ('239.7.7.7', 7777))
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
six.sendto(b'cry multicast6', ('ff02::7777', 7777, 0, index))
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); raw.bind((link, 0))
mac = raw.getsockname()[4]
for kind in (0x8137, 0x88b5): raw.send(b'\\xff' * 6 + mac + struct.pack('!H', kind) + b'frame ' + bytes(50))
"""
ON_THE_WAY_S = 3.0
"""What comes later than this after it was sent is not waited for."""
EVERYTHING = {"broadcast", "multicast4", "multicast6", hex(IPX), hex(OTHER)}


def addresses(network: int, *names: str) -> str:
    shown = (
        f'{name}: [10.{network}.0.{n}, "fd00:{network}::{n}"]'
        for n, name in enumerate(NAMES, 1)
        if name in names
    )
    return f"addresses: {{{', '.join(shown)}}}"


def network(name: str, number: int, mode: str, names: tuple[str, ...] = NAMES, *more: str) -> str:
    lines = [
        f"mode: {mode}",
        f"ipv4: 10.{number}.0.0/24",
        f'ipv6: "fd00:{number}::/64"',
        f"members: [{', '.join(names)}]",
        addresses(number, *names),
        *more,
    ]
    return f"  {name}:\n" + "".join(f"    {line}\n" for line in lines)


def document(there: Members, *networks: str) -> str:
    return there.document({name: there.endpoint(name) for name in NAMES}, "".join(networks))


@pytest.fixture(scope="module")
def there() -> Iterator[Members]:
    with members(*NAMES) as made:
        internet(made, *NAMES)
        yield made


def heard(there: Members, source: str, broadcast: str, wanted: dict[str, set[str]]) -> dict[str, set[str]]:
    """What the others hear when this one cries in every way that a segment carries: until all that is wanted has come,
    and what else comes meanwhile or soon.
    """
    ears: dict[str, Program] = {}
    for name in NAMES:
        if name != source:
            own = json.dumps(sorted(wanted[name]))
            ears[name] = there[name].start(sys.executable, "-c", EARS, PARTY, own)
    for ear in ears.values():
        assert ear.stdout is not None
        assert ear.stdout.readline() == "up\n"
    there[source].run(sys.executable, "-c", CRY, PARTY, broadcast)
    for name, ear in ears.items():
        if wanted[name]:
            assert ear.stdout is not None
            select.select([ear.stdout], [], [], BUSY_S)
    time.sleep(ON_THE_WAY_S)
    for ear in ears.values():
        ear.terminate()
    said = {name: ear.communicate(timeout=BUSY_S)[0] for name, ear in ears.items()}
    return {name: set(json.loads(lines.splitlines()[-1])) for name, lines in said.items()}


def test_everything_reaches_everybody_without_acls(there: Members) -> None:
    there.apply(document(there, network("party", 9, "lan")))
    wanted = {"two": EVERYTHING, "three": EVERYTHING}
    assert heard(there, "one", "10.9.0.255", wanted) == wanted


@pytest.mark.parametrize(
    ("rules", "two", "three"),
    [
        (
            "{name: cry, src: [one], dst: [two], proto: udp, ports: [7777]}",
            EVERYTHING - {hex(IPX), hex(OTHER)},
            set(),
        ),
        ('{name: else, src: ["*"], dst: ["*"], proto: udp, ports: [7778]}', set(), set()),
        ('{name: ipx, src: [one], dst: [three], proto: ethernet, ethertypes: ["0x8137"]}', set(), {hex(IPX)}),
        ('{name: back, src: [two], dst: ["*"]}', set(), set()),
    ],
    ids=["one-hears-the-port", "another-port", "an-ethertype", "another-source"],
)
def test_acls_hold_for_broadcast_multicast_and_frames(
    there: Members, rules: str, two: set[str], three: set[str]
) -> None:
    """A rule that denies keeps them from each receiver by itself: what one hears the other does not."""
    there.apply(document(there, network("party", 9, "lan", NAMES, f"acls: [{rules}]")))
    wanted = {"two": two, "three": three}
    assert heard(there, "one", "10.9.0.255", wanted) == wanted


def test_one_host_in_several_networks(there: Members) -> None:
    """`one` is in all: a segment, a routed network with two, another with three. Neither leads into another."""
    there.apply(
        document(
            there,
            network("party", 9, "lan"),
            network("left", 7, "routed", ("one", "two")),
            network(
                "right",
                8,
                "routed",
                ("one", "three"),
                "acls: [{name: p, src: [one], dst: [three], proto: icmp}]",
            ),
        )
    )
    one, two, three = (there[name] for name in NAMES)
    for family in ("10.{}.0.{}", "fd00:{}::{}"):
        assert pings(one, family.format(9, 2))
        assert pings(one, family.format(7, 2))
        assert pings(two, family.format(7, 1))
        assert pings(one, family.format(8, 3))
        assert not pings(three, family.format(8, 1), tries=1), "its rule is for one direction"
        assert not pings(two, family.format(8, 3), tries=1), "not its network"
        # With a route that the user of `two` makes: `one` does not answer for a network that `two` is not in.
        host = f"{family.format(8, 1)}/{32 if '.' in family else 128}"
        two.run("ip", "route", "replace", host, "dev", "nctl0")
        two.run("wg", "set", "nctl0", "peer", there.public["one"], "allowed-ips", f"+{host}", check=False)
        allowed = (
            two.run("wg", "show", "nctl0", "allowed-ips").split(there.public["one"])[1].split("\n")[0].split()
        )
        two.run("wg", "set", "nctl0", "peer", there.public["one"], "allowed-ips", ",".join([*allowed, host]))
        assert not pings(two, family.format(8, 1), tries=1)
    wanted = {"two": EVERYTHING, "three": EVERYTHING}
    assert heard(there, "one", "10.9.0.255", wanted) == wanted
    there.apply(document(there, network("party", 9, "lan")))


@pytest.mark.parametrize("mode", ["routed", "lan"])
def test_forged_sources_are_dropped_between_good_ones(there: Members, mode: str) -> None:
    """Another member's, a stranger's, one outside; IPv4, IPv6, first and later fragments."""
    there.apply(document(there, network("party", 9, mode)))
    one, two = there["one"], there["two"]
    assert pings(one, "10.9.0.2")
    packets: list[bytes] = []
    good: list[str] = []
    sources = [
        ("10.9.0.1", "10.9.0.2", ["10.9.0.3", "10.9.0.77", "192.0.2.1", "10.9.0.2"]),
        ("fd00:9::1", "fd00:9::2", ["fd00:9::3", "fd00:9::77", "2001:db8::1", "fd00:9::2"]),
    ]
    for mine, target, forged in sources:
        for fragment in (None, 0, 48):
            for number, source in enumerate(forged):
                mark = f"{len(packets)}"
                good.append(mark)
                packets.append(packet(mine, target, mark, fragment))
                packets.append(packet(source, target, f"forged {source} {fragment} {number}", fragment))
    packets.append(packet("10.9.0.1", "10.9.0.2", "last"))
    assert seen(one, two, packets) == [*good, "last"]
