"""Finds the place in the document that an object on a host comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from netctl.config.load.loader import Path, format_path
from netctl.model import derive
from netctl.model.addresses import Address, Prefix
from netctl.model.document import Document, Network
from netctl.model.hoststate import DOMAIN
from netctl.model.keys import WireGuardKey

ANYWHERE = "networks"
"""The place for an object that belongs to no network of this host."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Places in one document, from the view of one member. Each is computed only when asked for."""

    document: Document
    me: str

    def member(self, key: WireGuardKey) -> str:
        """``members.nas``; ``members`` for a key that the document does not have."""
        found = self.document.member_by_key(key)
        return format_path(("members", found.name)) if found is not None else "members"

    def own(self, *parts: str) -> str:
        """The place of a key in this host's own entry: ``members.laptop.listenPort``."""
        return format_path(("members", self.me, *parts))

    def key_of(self, name: str, address: Address) -> str | None:
        """The place of a member's address: ``networks.office.addresses.nas``, or the pool of its lease."""
        for network in self.document.networks_of(self.me):
            if address in network.addresses.get(name, ()):
                return format_path(("networks", network.name, "addresses", name))
            if (pool := _pool(network, address)) is not None and name in network.member_names:
                return format_path(("networks", network.name, pool))
        return None

    def address(self, address: Address) -> str:
        """The place of an address of this host: as `key_of`; for a stray address this host's own entry."""
        return self.key_of(self.me, address) or self.own()

    def prefix(self, prefix: Prefix, key: WireGuardKey | None = None) -> str:
        """The place of a route or an allowed IP (of the peer with `key`).

        ``members.nas.routes[0]``, ``networks.office.ipv4``, ``networks.office.addresses.nas``; without such a place the
        peer's entry, or without `key` the networks.
        """
        for name, member in self.document.members.items():
            if key is not None and member.wireguard != key:
                continue
            if prefix in member.routes:
                return format_path(("members", name, "routes", member.routes.index(prefix)))
        for network in self.document.networks_of(self.me):
            for pool, where in ((network.ipv4, "ipv4"), (network.ipv6, "ipv6")):
                if pool == prefix:
                    return format_path(("networks", network.name, where))
        if prefix.prefixlen == prefix.max_prefixlen:
            found = self._host(prefix.network_address, key)
            if found is not None:
                return found
        return self.member(key) if key is not None else ANYWHERE

    def _host(self, address: Address, key: WireGuardKey | None) -> str | None:
        for name, member in self.document.members.items():
            if member.wireguard is None or (key is not None and member.wireguard != key):
                continue
            if derive.underlay(member.wireguard) == address:
                return format_path(("members", name))
            if any(address in found.addresses.get(name, ()) for found in self.document.networks.values()):
                return self.key_of(name, address)
        if key is not None:
            member_of = self.document.member_by_key(key)
            return self.key_of(member_of.name, address) if member_of is not None else None
        for network in self.document.networks_of(self.me):
            if (pool := _pool(network, address)) is not None:
                return format_path(("networks", network.name, pool))
        return None

    def segment(self, link: str) -> str:
        """The place of a segment, ``networks.lan-party.mode``; the networks for a segment of no network."""
        for network in self.document.networks.values():
            if derive.segment_name(network.id) == link:
                return format_path(("networks", network.name, "mode"))
        return ANYWHERE

    def rule(self, name: str) -> str:
        """The place of a rule by its name in the filter (``office: ssh``)."""
        network_name, _, rule = name.removeprefix("network ").partition(": ")
        network = self.document.networks.get(network_name)
        if network is None:
            return ANYWHERE
        for index, acl in enumerate(network.acls or ()):
            if acl.name == rule:
                return format_path(("networks", network_name, "acls", index))
        return self._filtered(network)

    def filters(self) -> Iterator[str]:
        """The places that our whole filter table comes from."""
        for network in self.document.networks_of(self.me):
            yield self._filtered(network)

    def name(self, host: str) -> str:
        """The place of a name in the hosts file: ``networks.office.members``."""
        network = host.removesuffix(f".{DOMAIN}").rpartition(".")[2]
        return (
            format_path(("networks", network, "members")) if network in self.document.networks else ANYWHERE
        )

    def sysctl(self, key: str) -> str:
        """The place because of which a kernel parameter is set."""
        for part in key.split("/"):
            if (where := self.segment(part)) != ANYWHERE:
                return where
        for network in self.document.networks_of(self.me):
            if network.hub == self.me:
                return format_path(("networks", network.name, "topology", "hub"))
        return self.own("routes")

    @staticmethod
    def _filtered(network: Network) -> str:
        path: Path = ("networks", network.name)
        return format_path((*path, "acls") if network.acls is not None else path)


def _pool(network: Network, address: Address) -> str | None:
    for pool, where in ((network.ipv4, "ipv4"), (network.ipv6, "ipv6")):
        if pool is not None and address in pool:
            return where
    return None
