"""A view as rows: each member once, with all its leases (docs/protocol.md, «Views»).

A lease in a row is the index of its network in the same message, and its addresses: ``0 10.20.3.4 +``. The `+` is the
IPv6 address that the network's prefix and the member's key give, so it need not be sent. The digest is over the
addresses in full: a row that was read wrongly gives another view than the sealed one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Network

from netctl.model.addresses import Address, parse_address, parse_prefix
from netctl.model.derive import member_ipv6
from netctl.model.errors import RemoteError
from netctl.model.keys import WireGuardKey
from netctl.model.view import Lease, View, ViewMember
from netctl.session.views import TEXT_PER_CHUNK, read_key, read_name
from netctl.wire.control import Row, RowNetwork, ViewRows

ROWS_BYTES = 60_000
"""Of the rows and networks in a part, about. With the excerpt's part it fits in a frame of 256 KiB."""
ROW_COST = 60
"""Bytes of a row without its name and leases."""
DERIVED = "+"


@dataclass(frozen=True, slots=True)
class RowMember:
    """A member as it is sent. `leases`: network names and `lease_text`s."""

    name: str
    key: str
    leases: Sequence[tuple[str, str]]


def lease_text(addresses: Iterable[Address], prefix: IPv6Network | None, key: WireGuardKey) -> str:
    """A lease's addresses in a row. `prefix`: that of its network."""
    derived = member_ipv6(prefix, key) if prefix is not None else None
    return " ".join(DERIVED if address == derived else str(address) for address in addresses)


@dataclass(slots=True)
class _Part:
    networks: dict[str, int] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    size: int = 0


def make_rows(members: Iterable[RowMember], prefixes: Mapping[str, str], document: str) -> list[ViewRows]:
    """The whole view in parts that fit a frame. `prefixes`: by network, empty where there is none."""
    parts = [_Part()]
    for member in members:
        part, cells = parts[-1], list[str]()
        if part.size > ROWS_BYTES:
            part = _Part()
            parts.append(part)
        for network, text in member.leases:
            if part.size > ROWS_BYTES:  # a member of very many networks
                part.rows.append(Row(member.name, member.key, ",".join(cells)))
                part, cells = _Part(), []
                parts.append(part)
            if network not in part.networks:
                part.networks[network] = len(part.networks)
                part.size += len(network) + len(prefixes[network]) + 8
            cells.append(f"{part.networks[network]} {text}".rstrip())
            part.size += len(cells[-1]) + 1
        part.rows.append(Row(member.name, member.key, ",".join(cells)))
        part.size += len(member.name) + ROW_COST
    texts = [document[at : at + TEXT_PER_CHUNK] for at in range(0, len(document), TEXT_PER_CHUNK)]
    parts += [_Part() for _ in range(len(texts) - len(parts))]
    texts += [""] * (len(parts) - len(texts))
    return [
        ViewRows(
            number, len(parts), [RowNetwork(name, prefixes[name]) for name in part.networks], part.rows, text
        )
        for number, (part, text) in enumerate(zip(parts, texts, strict=True))
    ]


def read_rows(parts: Iterable[ViewRows]) -> View:
    """All parts of a view, in order, to the view, without generation and presence. Raises RemoteError."""
    members: dict[WireGuardKey, ViewMember] = {}
    leases: dict[tuple[str, WireGuardKey], Lease] = {}
    document = ""
    for part in parts:
        networks = [(read_name(one.name), _prefix(one.prefix)) for one in part.networks]
        for row in part.rows:
            key = read_key(row.key)
            members[key] = ViewMember(read_name(row.name), key)
            for cell in row.leases.split(",") if row.leases else ():
                index, *texts = cell.split(" ")
                if not (index.isascii() and index.isdigit()) or len(texts) > 2:
                    raise RemoteError("a view with a bad lease", "view.bad")
                if len(index) > 5 or int(index) >= len(networks):
                    raise RemoteError("a view with a lease of no network", "view.bad")
                network, prefix = networks[int(index)]
                leases[network, key] = Lease(
                    network, key, tuple(_address(text, prefix, key) for text in texts)
                )
        document += part.document
    return View(0, members, leases, document)


def _prefix(text: str) -> IPv6Network | None:
    if not text:
        return None
    try:
        prefix = parse_prefix(text)
    except ValueError as error:
        raise RemoteError(f"a view with a bad prefix: {error}", "view.bad") from error
    if not isinstance(prefix, IPv6Network):
        raise RemoteError("a view with an IPv4 prefix for IPv6 addresses", "view.bad")
    return prefix


def _address(text: str, prefix: IPv6Network | None, key: WireGuardKey) -> Address:
    if text == DERIVED and prefix is not None:
        return member_ipv6(prefix, key)
    try:
        return parse_address(text)
    except ValueError as error:
        raise RemoteError(f"a view with a bad address: {error}", "view.bad") from error
