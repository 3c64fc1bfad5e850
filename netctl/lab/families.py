"""Address families as a dimension of the lab: members and a mediator with IPv4, IPv6, both, or IPv6 that leads nowhere,
and members whose network has IPv6 and a NAT64.

Every member is behind its own port-restricted NAT for IPv4 and a stateful firewall for IPv6. After the wiring of the
lab, addresses that a host's family excludes are removed. The mediator's name has the addresses of its family; with
`IPV6_BROKEN` its IPv6 address does not answer.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from netctl.lab.internet import Lab, raise_lab, statuses_of
from netctl.lab.namespaces import Holder
from netctl.lab.topology import FIRST_MEDIATOR, PUBLIC, PUBLIC6
from netctl.lab.translator import translate
from netctl.lab.wiring import Network
from netctl.system.files import write_atomic

MEDIATOR = "m1.example.net"
PATIENCE_S = 30.0
"""Longest wait until every pair has its expected path; a quiet machine needs 2 s."""
POLL_S = 0.25
LOCALHOST = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n"
_HOLE = """
table ip6 hole {
  chain forward { type filter hook forward priority 0; policy drop; }
  chain input { type filter hook input priority 0; policy accept; iifname lan meta l4proto { tcp, udp } drop; }
}
"""


class Family(StrEnum):
    """The address families of a host."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"
    BOTH = "both"
    IPV6_BROKEN = "IPv6 broken"  # IPv4, and an IPv6 address with a default route into a black hole
    NAT64 = "NAT64"  # IPv6 alone, and a translator to IPv4

    @property
    def works(self) -> frozenset[int]:
        """The families over which packets arrive."""
        return {
            Family.IPV4: frozenset({4}),
            Family.IPV6: frozenset({6}),
            Family.BOTH: frozenset({4, 6}),
            Family.IPV6_BROKEN: frozenset({4}),
            Family.NAT64: frozenset({4, 6}),
        }[self]


MEDIATORS = tuple(family for family in Family if family is not Family.NAT64)
"""The families of a mediator: a server behind a NAT64 cannot be reached over IPv4."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """One pair of a lab of families, and its result."""

    mediator: Family
    one: Family
    other: Family
    wanted: str
    paths: tuple[str, str]
    seconds: float | None
    """From the end of the last apply until both sides had the expected path; None: never."""


def reaching(families: Sequence[Family], mediator: Family) -> list[Family]:
    """The families that can reach the mediator. Members of others cannot log in, so the lab has none."""
    return [family for family in families if family.works & mediator.works]


def expected(one: Family, other: Family) -> str:
    """The expected path of two members that reach the mediator: ``direct`` or ``relayed``."""
    return "direct" if one.works & other.works else "relayed"


def met(wanted: str, paths: tuple[str, str]) -> bool:
    """Whether both sides have the expected path."""
    kinds = {"direct": {"direct"}, "relayed": {"relay-udp"}}[wanted]
    return set(paths) <= kinds


def _name(family: Family, side: int) -> str:
    return f"{family.lower().replace(' ', '-')}-{'ab'[side]}"


def pairs_of(
    families: Sequence[Family], *, twice: bool = True
) -> list[tuple[tuple[str, Family], tuple[str, Family]]]:
    """Every pair of families once, as (name, family) each; with `twice` also each family with itself."""
    if not twice:
        return [
            ((_name(one, 0), one), (_name(other, 0), other))
            for one, other in itertools.combinations(families, 2)
        ]
    found = itertools.combinations_with_replacement(families, 2)
    return [((_name(one, 0), one), (_name(other, 1), other)) for one, other in found]


def document_of(families: Sequence[Family], *, twice: bool = True) -> tuple[str, str, dict[str, Family]]:
    """The document, its sidecar, and the family of each member. `twice`: two members of each family."""
    members = {_name(family, side): family for family in families for side in range(1 + twice)}

    def key(name: str) -> bytes:
        return hashlib.sha256(name.encode()).digest()

    def identity(name: str) -> str:
        public = Ed25519PrivateKey.from_private_bytes(key(name)).public_key().public_bytes_raw()
        return f"ed25519:{base64.b64encode(public).decode()}"

    document: dict[str, Any] = {
        "apiVersion": "netctl/v1",
        "mediators": [{"url": f"netctl://{MEDIATOR}:8443", "identity": [identity("mediator")]}],
        "members": {
            name: {"wireguard": base64.b64encode(key(name)).decode(), "identity": identity(name)}
            for name in members
        },
        "networks": {"families": {"mode": "routed", "ipv4": "10.66.0.0/24", "members": ["*"]}},
    }
    boxes = {
        f"{name}-box": {"kind": "port-restricted", "members": [name], "ipv6": "firewall"} for name in members
    }
    return json.dumps(document, indent=1), json.dumps({"nats": boxes}, indent=1), members


def wire(network: Network, members: Mapping[str, Family], mediator: Family) -> None:
    """Remove the addresses that each host's family excludes; set the mediator's addresses and name."""
    four, six = PUBLIC[FIRST_MEDIATOR], PUBLIC6[FIRST_MEDIATOR]
    (host,) = network.mediators.values()
    if mediator in (Family.IPV6, Family.BOTH):
        host.run(
            ["ip", "-6", "-batch", "-"],
            f"addr add {six}/64 dev eth0 nodad\nroute add default via {PUBLIC6[1]}\n",
        )
    if mediator is Family.IPV6:
        host.run(["ip", "-4", "addr", "flush", "dev", "eth0"])
    named = [str(six)] * (mediator is not Family.IPV4) + [str(four)] * (mediator is not Family.IPV6)
    text = LOCALHOST + "".join(f"{address}\t{MEDIATOR}\n" for address in named)
    for node in (*network.members.values(), host):
        node.write("/etc/hosts", text)
    told = {MEDIATOR: named}
    for name, family in members.items():
        member, box = network.members[name], network.boxes[f"{name}-box"]
        if family is Family.IPV4:
            member.run(["ip", "-6", "addr", "flush", "dev", "eth0", "scope", "global"])
            member.attempt(["ip", "-6", "route", "del", "default"])
        elif family is Family.IPV6:
            member.run(["ip", "-4", "addr", "flush", "dev", "eth0"])
        elif family is Family.NAT64:
            member.run(["ip", "-4", "addr", "flush", "dev", "eth0"])
            if name == _name(
                family, 1
            ):  # side 0 keeps the mediator's addresses in its hosts file, side 1 asks the DNS64
                member.write("/etc/hosts", LOCALHOST)
            translate(box, member, told)
        elif family is Family.IPV6_BROKEN:
            box.run(["nft", "-f", "-"], _HOLE)


@contextlib.contextmanager
def standing(
    directory: Path, families: Sequence[Family], mediator: Family, *, twice: bool = True
) -> Iterator[tuple[Lab, float]]:
    """A lab with one or two members of each family, and when its last apply ended (monotonic clock, s)."""
    document, sidecar, members = document_of(families, twice=twice)
    path = directory / "families.yaml"
    write_atomic(path, document)
    write_atomic(path.with_name("families.lab.yaml"), sidecar)
    holder = Holder.start()
    try:
        lab = raise_lab(holder, path, lambda _: None, wired=lambda network: wire(network, members, mediator))
        yield lab, time.monotonic()
    finally:
        holder.destroy()


def meetings(
    lab: Lab, began: float, families: Sequence[Family], mediator: Family, *, twice: bool = True
) -> list[Meeting]:
    """Wait until every pair has its expected path, `PATIENCE_S` at most; the result of every pair."""
    pairs = pairs_of(families, twice=twice)
    since: dict[int, float] = {}
    paths: list[tuple[str, str]] = []
    while True:
        said = statuses_of(lab.network.members)
        paths = [(_path(said, one, other), _path(said, other, one)) for (one, _), (other, _) in pairs]
        now = time.monotonic() - began
        for number, ((_, one), (_, other)) in enumerate(pairs):
            if met(expected(one, other), paths[number]):
                since.setdefault(number, now)
            else:
                since.pop(number, None)
        if len(since) == len(pairs) or now > PATIENCE_S:
            break
        time.sleep(POLL_S)
    return [
        Meeting(mediator, one, other, expected(one, other), paths[number], since.get(number))
        for number, ((_, one), (_, other)) in enumerate(pairs)
    ]


def _path(said: Mapping[str, dict[str, Any]], one: str, other: str) -> str:
    return next((str(peer["path"]) for peer in said[one]["peers"] if peer["name"] == other), "none")


def render(found: Sequence[Meeting], machine: str) -> str:
    """The text of docs/families.md; `machine` describes the measuring machine."""
    good = sum(meeting.seconds is not None for meeting in found)
    slowest = max((meeting.seconds or 0.0 for meeting in found), default=0.0)
    return f"""# Address families: which pairs are direct

Made by `make matrix` from real packets, not by hand: members with IPv4 alone, IPv6 alone, both, both where IPv6
leads nowhere, and IPv6 with a NAT64 (TAYGA, its prefix told by ipv4only.arpa), two of each in one lab, once for every
such mediator. Each stands behind a port-restricted NAT for IPv4 and a stateful firewall for IPv6. The mediator's name
has an address for each family that it is said to have; the broken one is an AAAA at which nobody answers.

{good} of {len(found)} pairs were as below; the slowest {slowest:.1f} s after the last `netctl apply` had ended, on
{machine}.

{table(found)}

- A member asks STUN servers and relay in every family that the mediator's name has, whichever one its control
  connection took: so an IPv4 host and a dual-stack one that logged in by IPv6 are direct.
- Behind a NAT64 a member is direct with IPv4 ones: it reaches servers and peers behind the discovered prefix, and is
  seen and called at the translator's IPv4 address.
- "relayed": the two have no family in common. The relay joins them over UDP, each by its own family.
- "no mediator": the member has no family in common with the mediator, and so nobody to introduce it.
"""


def table(found: Sequence[Meeting]) -> str:
    """A Markdown table: a row for each pair, a column for each mediator."""
    mediators = list(dict.fromkeys(meeting.mediator for meeting in found))
    lines = [
        "| members | " + " | ".join(f"mediator: {mediator}" for mediator in mediators) + " |",
        "|---|" + "---|" * len(mediators),
    ]
    every = itertools.combinations_with_replacement(Family, 2)
    cells: dict[tuple[Family, Family], dict[Family, str]] = {pair: {} for pair in every}
    for meeting in found:
        if meeting.seconds is None:
            told = f"**{' / '.join(dict.fromkeys(meeting.paths))}** instead of {meeting.wanted}"
        else:
            told = meeting.wanted
        cells[meeting.one, meeting.other][meeting.mediator] = told
    for (one, other), row in cells.items():
        lines.append(
            f"| {one} – {other} | " + " | ".join(row.get(m, "no mediator") for m in mediators) + " |"
        )
    return "\n".join(lines)
