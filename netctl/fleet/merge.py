"""Convert wg-quick files of several hosts to one document, and list where the document differs from the files.

To find differences, the document is resolved for every host and compared with that host's file.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network

from netctl.config import load_document, resolve
from netctl.config.load.semantic import PRIVATE_SPACE
from netctl.fleet.wgquick import QuickFile, QuickPeer
from netctl.model.addresses import Address, Endpoint, Prefix, SocketAddress, host_prefix
from netctl.model.document import Document
from netctl.model.errors import ConfigError, Finding, Mark
from netctl.model.keys import WireGuardKey

LEAST_POOL = {4: 30, 6: 64}
"""The longest prefix length of a pool, by IP version."""
NAME_LEN = 63
"""Characters of a member's name: it is a label of DNS (RFC 1035 §2.3.4)."""


@dataclass(frozen=True, slots=True)
class Imported:
    """One document, and its differences from the files that it was made from."""

    text: str
    members: int
    networks: int
    differences: tuple[str, ...]
    """Sentences, each about one host; empty: the document gives every host what its file says."""


@dataclass(slots=True)
class _Member:
    key: WireGuardKey
    name: str
    mark: Mark
    file: QuickFile | None = None
    addresses: list[Address] = field(default_factory=list)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    routes: dict[Prefix, None] = field(default_factory=dict)


@dataclass(slots=True)
class _Network:
    name: str
    members: list[_Member]
    pools: dict[int, Prefix] = field(default_factory=dict)
    hub: _Member | None = None


def merge(files: Sequence[QuickFile]) -> Imported:
    """Make one document of the files of several hosts. Raises ConfigError with file and line."""
    _complete(files)
    members = _members(files)
    networks = _networks(files, members)
    for network in networks:
        _pools(network)
        _addresses_of_strangers(network, files)
        _routes(network)
    text = _text(members.values(), networks, files)
    try:
        document = load_document(text, "(imported)").document
    except ConfigError as error:
        said = "; ".join(f"{finding.path}: {finding.message}" for finding in error.findings)
        raise _wrong(files[0].mark, f"these files make no valid document: {said}") from None
    departures = tuple(line for file in files for line in _departures(document, file))
    return Imported(text, len(document.members), len(document.networks), departures)


def _wrong(mark: Mark, message: str, hint: str = "") -> ConfigError:
    return ConfigError((Finding("NC702", "import", message, mark, hint),))


def _complete(files: Sequence[QuickFile]) -> None:
    """Complete missing keys: a file without PrivateKey gets the key that other files list for its address.

    Raises ConfigError if that key is unknown, or if a host has two files or two hosts have one key.
    """
    hosts: dict[str, QuickFile] = {}
    for file in files:
        other = hosts.setdefault(file.host, file)
        if other is not file:
            message = f"'{file.host}' has {other.file} too; a host has one link in netctl"
            raise _wrong(file.mark, message, "import one of them at a time")
        if file.key is not None:
            continue
        own = {host_prefix(address.ip) for address in file.addresses}
        found = {
            peer.key
            for other in files
            if other is not file
            for peer in other.peers
            if peer.key is not None and not own.isdisjoint(peer.allowed)
        }
        if len(found) != 1:
            message = "no PrivateKey here, and no other file says whose address this is"
            raise _wrong(file.mark, message, "add the files of its peers, or the PrivateKey")
        file.key = found.pop()
    keys: dict[WireGuardKey, QuickFile] = {}
    for file in files:
        assert file.key is not None
        other = keys.setdefault(file.key, file)
        if other is not file:
            raise _wrong(file.mark, f"the key is that of {other.file} too; a key belongs to one host")


def _members(files: Sequence[QuickFile]) -> dict[WireGuardKey, _Member]:
    members: dict[WireGuardKey, _Member] = {}
    names: set[str] = set()

    def named(wanted: str, fallback: str) -> str:
        name = _label(wanted) or fallback
        base, count = name, 2
        while name in names:
            name, count = f"{base[: NAME_LEN - 4]}-{count}", count + 1
        names.add(name)
        return name

    for file in files:
        assert file.key is not None
        member = _Member(file.key, named(file.host, "host"), file.mark, file)
        member.addresses = [address.ip for address in file.addresses]
        members[file.key] = member
    for file in files:
        for peer in file.peers:
            assert peer.key is not None
            if peer.key not in members:
                members[peer.key] = _Member(peer.key, named(peer.called, "peer"), peer.mark)
            if peer.endpoint is not None:
                members[peer.key].endpoints[str(peer.endpoint)] = peer.endpoint
    return members


def _label(text: str) -> str:
    """A DNS label from a host's name or from a comment of one or two words; empty: the text gives none."""
    first = text.split(".")[0].lower()
    if len(first.split()) > 2:
        return ""
    return re.sub(r"[^a-z0-9]+", "-", first).strip("-")[:NAME_LEN].strip("-")


def _networks(files: Sequence[QuickFile], members: dict[WireGuardKey, _Member]) -> list[_Network]:
    """Group members into networks: members that the files' peers connect are one network."""
    parent = {key: key for key in members}

    def root(key: WireGuardKey) -> WireGuardKey:
        while parent[key] != key:
            key = parent[key]
        return key

    for file in files:
        assert file.key is not None
        for peer in file.peers:
            assert peer.key is not None
            parent[root(peer.key)] = root(file.key)
    groups: dict[WireGuardKey, list[_Member]] = {}
    for key, member in members.items():
        groups.setdefault(root(key), []).append(member)
    names: set[str] = set()
    networks = []
    for group in groups.values():
        base = _label(next(member.file.link for member in group if member.file is not None)) or "wg0"
        name, count = base, 2
        while name in names:
            name, count = f"{base}-{count}", count + 1
        names.add(name)
        networks.append(_Network(name, group))
    return networks


def _pools(network: _Network) -> None:
    """Set the pools: the prefix of the hosts' own addresses, widened until it holds every member's address."""
    for version in (4, 6):
        said = [
            (interface.network, member)
            for member in network.members
            if member.file is not None
            for interface in member.file.addresses
            if interface.version == version
        ]
        if not said:
            continue
        wide: Iterable[Prefix] = (prefix for prefix, _ in said if prefix.prefixlen < prefix.max_prefixlen)
        collapsed: list[Prefix] = list(ipaddress.collapse_addresses(set(wide)))  # type: ignore[type-var]
        if len(collapsed) > 1:
            shown = ", ".join(map(str, collapsed))
            message = f"these hosts are one network by their peers, and have {shown}"
            raise _wrong(said[0][1].mark, message, "give them one prefix, or import one network at a time")
        pool = collapsed[0] if collapsed else said[0][0]
        while pool.prefixlen > LEAST_POOL[version] or not all(
            _has(pool, address)
            for member in network.members
            for address in member.addresses
            if address.version == version
        ):
            pool = pool.supernet()
        network.pools[version] = pool


def _has(pool: Prefix, address: Address) -> bool:
    ends = {pool.network_address, pool.broadcast_address} if isinstance(pool, IPv4Network) else set()
    return address in pool and address not in ends


def _addresses_of_strangers(network: _Network, files: Sequence[QuickFile]) -> None:
    """Give members without a file the addresses that other members' AllowedIPs list for them."""
    for member in network.members:
        if member.file is not None:
            continue
        for peer in _said_of(network, member):
            for prefix in peer.allowed:
                pool = network.pools.get(prefix.version)
                single = prefix.prefixlen == prefix.max_prefixlen
                if single and pool is not None and _has(pool, prefix.network_address):
                    member.addresses.append(prefix.network_address)
        member.addresses = list(dict.fromkeys(member.addresses))
        if 4 in network.pools and not any(address.version == 4 for address in member.addresses):
            message = f"the address of this peer in {network.pools[4]} cannot be told from its AllowedIPs"
            raise _wrong(member.mark, message, "add its own file to the import")


def _said_of(network: _Network, member: _Member) -> list[QuickPeer]:
    peers = (peer for other in network.members if other.file for peer in other.file.peers)
    return [peer for peer in peers if peer.key == member.key]


def _routes(network: _Network) -> None:
    """Find what AllowedIPs hold besides members' addresses: LANs behind a member, or the whole network (a hub)."""
    others = [member for member in network.members if member.file is not None]
    for member in network.members:
        through = False
        for peer in _said_of(network, member):
            for prefix in peer.allowed:
                pool = network.pools.get(prefix.version)
                if pool is not None and prefix.overlaps(pool):
                    through = through or prefix.network_address not in member.addresses
                elif prefix.prefixlen:
                    member.routes[prefix] = None
        spokes = [other for other in others if other is not member]
        alone = all([peer.key for peer in spoke.file.peers] == [member.key] for spoke in spokes if spoke.file)
        if len(network.members) > 2 and spokes and alone and (through or len(spokes) > 1):
            network.hub = member
    if network.hub is not None:  # a route through the hub may be another spoke's LAN
        hub = network.hub
        for member in network.members:
            if member is not hub:
                for prefix in member.routes:
                    hub.routes.pop(prefix, None)


def _text(members: Iterable[_Member], networks: Sequence[_Network], files: Sequence[QuickFile]) -> str:
    lines = ["# Imported from wg-quick files by `netctl import`.", "apiVersion: netctl/v1", "members:"]
    for member in members:
        parts = [f'wireguard: "{member.key}"']
        if member.endpoints:
            parts.append("endpoints: [" + ", ".join(f'"{text}"' for text in member.endpoints) + "]")
        if member.routes:
            parts.append("routes: [" + ", ".join(f'"{prefix}"' for prefix in member.routes) + "]")
        if member.file is not None and member.file.listen_port is not None:
            parts.append(f"listenPort: {member.file.listen_port}")
        if member.file is not None and member.file.mtu is not None:
            parts.append(f"mtu: {member.file.mtu}")
        lines.append(f"  {member.name}: {{{', '.join(parts)}}}")
    lines.append("networks:")
    for network in networks:
        lines += [f"  {network.name}:", "    mode: routed"]
        if 4 in network.pools:
            lines.append(f"    ipv4: {network.pools[4]}")
        lines.append(f'    ipv6: "{network.pools[6]}"' if 6 in network.pools else "    ipv6: none")
        if not all(_private(pool) for pool in network.pools.values()):
            lines.append("    allowPublicRange: true")
        names = ", ".join(member.name for member in network.members)
        lines.append("    members: [" + names + "]" if len(networks) > 1 else '    members: ["*"]')
        lines.append("    addresses:")
        for member in network.members:
            shown = ", ".join(f'"{address}"' for address in member.addresses)
            lines.append(f"      {member.name}: [{shown}]")
        if network.hub is not None:
            lines.append(f"    topology: {{hub: {network.hub.name}}}")
    return "\n".join(lines) + "\n"


def _private(pool: Prefix) -> bool:
    return any(
        pool.version == space.version and pool.subnet_of(space)  # type: ignore[arg-type]
        for space in PRIVATE_SPACE
    )


def _departures(document: Document, file: QuickFile) -> Iterable[str]:
    """Sentences on what the document would change on the host of this file."""
    assert file.key is not None
    member = document.member_by_key(file.key)
    assert member is not None
    told = {
        str(endpoint): SocketAddress("192.0.2.1", endpoint.port)  # any address: names are not resolved here
        for other in document.members.values()
        for endpoint in other.endpoints
        if not _is_address(endpoint.host)
    }
    link = resolve(document, member.name, None, resolved=told).state.wireguard
    assert link is not None
    if link.addresses != {address.ip for address in file.addresses}:
        yield f"{member.name}: its addresses would be {_listed(link.addresses)}"
    names = {other.wireguard: other for other in document.members.values()}
    theirs: dict[WireGuardKey, QuickPeer] = {peer.key: peer for peer in file.peers if peer.key is not None}
    for key in link.peers.keys() - theirs.keys():
        yield f"{member.name}: would get a tunnel to {names[key].name}, which its file has not"
    for key, peer in theirs.items():
        name = names[key].name
        if key not in link.peers:
            yield f"{member.name}: would lose its tunnel to {name}"
            continue
        yield from _allowed_departures(member.name, name, peer, link.peers[key].allowed_ips)
        written = [str(endpoint) for endpoint in names[key].endpoints]
        if peer.endpoint is not None and str(peer.endpoint) != written[0]:
            yield f"{member.name}: would reach {name} at {written[0]} instead of {peer.endpoint}"
        if peer.endpoint is None and written:
            yield f"{member.name}: would be told the endpoint of {name} ({written[0]}), which its file leaves open"


def _allowed_departures(host: str, peer: str, said: QuickPeer, wanted: Iterable[Prefix]) -> Iterable[str]:
    before, after = set(_collapsed(said.allowed)), set(_collapsed(wanted))
    if before == after:
        return
    for prefix in sorted(before - after, key=str):
        if not prefix.prefixlen:
            yield f"{host}: {prefix} through {peer} is not carried: netctl has no default route through a member"
        else:
            yield f"{host}: {prefix} through {peer} would go"
    for prefix in sorted(after - before, key=str):
        if any(_within(prefix, other) for other in before):
            continue  # a part of a prefix that the host has already
        yield f"{host}: would also reach {prefix} through {peer}"


def _within(one: Prefix, other: Prefix) -> bool:
    return one.version == other.version and one.subnet_of(other)  # type: ignore[arg-type]


def _collapsed(prefixes: Iterable[Prefix]) -> list[Prefix]:
    found: list[Prefix] = []
    known = list(prefixes)
    for version in (4, 6):
        some = [prefix for prefix in known if prefix.version == version]
        found += ipaddress.collapse_addresses(some)  # type: ignore[type-var]
    return found


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _listed(values: Iterable[object]) -> str:
    return ", ".join(sorted(map(str, values))) or "none"
