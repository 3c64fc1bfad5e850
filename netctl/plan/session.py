"""Whether the session that asks for a plan depends on a tunnel that the plan changes."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from netctl.model.addresses import Address
from netctl.model.hoststate import FilterTable, HostState, Peer


@dataclass(frozen=True, slots=True)
class Session:
    """A TCP connection to this host, as sshd describes it."""

    client: Address
    server: Address
    port: int

    @classmethod
    def parse(cls, ssh_connection: str) -> Session | None:
        """From SSH_CONNECTION (``client port server port``); None when it cannot be parsed."""
        parts = ssh_connection.split()
        try:
            client, _, server, port = parts
            return cls(_address(client), _address(server), int(port))
        except ValueError:
            return None


def _address(text: str) -> Address:
    address = ipaddress.ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def carrier(session: Session, state: HostState) -> Peer | None:
    """The peer whose tunnel carries the session; None when it comes another way."""
    link = state.wireguard
    if link is None or session.server not in _own(state):
        return None
    found = [peer for peer in link.peers.values() if any(session.client in p for p in peer.allowed_ips)]
    return max(
        found,
        key=lambda peer: max(p.prefixlen for p in peer.allowed_ips if session.client in p),
        default=None,
    )


def drops(session: Session, desired: HostState, actual: HostState) -> str | None:
    """Why the session ends when `actual` becomes `desired`; None when it uses no tunnel, or goes on."""
    peer = carrier(session, actual)
    if peer is None or actual.wireguard is None:
        return None
    link = desired.wireguard
    if link is None:
        return f"link {actual.wireguard.name} goes"
    if link.key != actual.wireguard.key:
        return "this host's key changes"
    if session.server not in _own(desired):
        return f"this host's address {session.server} goes"
    if peer.key not in link.peers:
        return f"peer {peer.key.short} goes"
    if carrier(session, desired) != link.peers[peer.key]:
        return f"{session.client} is no longer behind peer {peer.key.short}"
    if _accepts(actual.filter, session) and not _accepts(desired.filter, session):
        return f"no rule lets {session.client} reach tcp/{session.port} any more"
    return None


def _own(state: HostState) -> set[Address]:
    own: set[Address] = set(state.wireguard.addresses) if state.wireguard is not None else set()
    return own.union(*({address for address, _ in segment.addresses} for segment in state.segments.values()))


def _accepts(table: FilterTable | None, session: Session) -> bool:
    if table is None:
        return True
    return any(
        rule.proto in (None, "tcp")
        and (not rule.ports or any(p.first <= session.port <= p.last for p in rule.ports))
        and any(session.client in prefix for prefix in rule.sources)
        and any(session.server in prefix for prefix in rule.destinations)
        for rule in table.rules
    )
