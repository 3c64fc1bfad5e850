"""The configuration of a stock WireGuard app: one peer for each other member, reached over a relay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from netctl.config.load.acl import contains
from netctl.config.resolve.resolution import KEEPALIVE_S, resolve
from netctl.model import derive
from netctl.model.addresses import Address, host_prefix
from netctl.model.document import Document, Mediator
from netctl.model.errors import LocalError
from netctl.model.hoststate import WireGuardLink
from netctl.model.keys import WireGuardKey
from netctl.model.view import View


def stock_config(
    document: Document,
    name: str,
    view: View,
    meeting: Callable[[WireGuardKey], tuple[Mediator, int] | None],
) -> dict[str, Any]:
    """The configuration of member `name` as plain data, for `render` and for programs.

    `view`: the member's own view; `meeting`: the relay of its pair with a peer, and the pair's port there. Peers
    without a port are listed under `without_port`. Raises LocalError when there is no such stock member, or it has no
    network or address.
    """
    member = document.members.get(name)
    if member is None:
        raise LocalError(f"the mediator's document has no member '{name}'")
    if not member.stock:
        raise LocalError(f"'{name}' has an agent (it has an `identity:`), which needs no such file")
    state = resolve(document, name, view).state
    link = state.wireguard
    if link is None:
        raise LocalError(f"'{name}' belongs to no network, so there is nobody to reach")
    addresses = sorted(
        {*link.addresses, *(a for segment in state.segments.values() for a, _ in segment.addresses)},
        key=lambda address: (address.version, int(address)),
    )
    if not addresses:
        raise LocalError(f"'{name}' has no address yet: are its networks' pools full?")
    places = {key: meeting(key) for key in link.peers}
    names = {other.wireguard: other.name for other in document.members.values()}
    return {
        "member": name,
        "wireguard": str(member.wireguard),
        "networks": [network.name for network in document.networks_of(name)],
        "addresses": [f"{address}/{_pool_length(document, name, address)}" for address in addresses],
        "mtu": link.mtu,
        "peers": [
            {
                "name": names[key],
                "wireguard": str(key),
                "endpoint": _endpoint(*place),
                "allowed": _allowed(link, key),
                "keepalive_s": KEEPALIVE_S,
            }
            for key, place in places.items()
            if place is not None
        ],
        "without_port": [names[key] for key, place in places.items() if place is None],
    }


def _endpoint(relay: Mediator, port: int) -> str:
    host = f"[{relay.host}]" if ":" in relay.host else relay.host
    return f"{host}:{port}"


def _pool_length(document: Document, name: str, address: Address) -> int:
    """The prefix length of the address's pool: then the system uses this address as the source within the pool.

    Members drop packets from an address of a network that they do not share.
    """
    pools = [pool for network in document.networks_of(name) for pool in (network.ipv4, network.ipv6)]
    found = (pool.prefixlen for pool in pools if pool is not None and contains(pool, host_prefix(address)))
    return next(found, address.max_prefixlen)


def _allowed(link: WireGuardLink, key: WireGuardKey) -> list[str]:
    """The allowed IPs of a peer, without the underlay addresses of segments, which an app does not use."""
    under = derive.underlay_prefix()
    found = (p for p in link.peers[key].allowed_ips if p.version == 4 or p.network_address not in under)
    return [str(p) for p in sorted(found, key=lambda p: (p.version, int(p.network_address), p.prefixlen))]


def render(config: Mapping[str, Any], private_key: str | None, *, comments: bool = True) -> str:
    """The text for `wg-quick` and the apps. Without `private_key` a comment says that the app keeps its own key."""
    lines: list[str] = []
    if comments:
        lines += [f"# {config['member']} in {', '.join(config['networks'])}, by netctl", ""]
    lines.append("[Interface]")
    if private_key is not None:
        lines.append(f"PrivateKey = {private_key}")
    elif comments:
        lines.append(f"# PrivateKey = the one that belongs to {config['wireguard']}")
    lines += [f"Address = {', '.join(config['addresses'])}", f"MTU = {config['mtu']}"]
    peers: Sequence[Mapping[str, Any]] = config["peers"]
    for peer in peers:
        lines += ["", f"# {peer['name']}"] if comments else []
        lines += [
            "[Peer]",
            f"PublicKey = {peer['wireguard']}",
            f"Endpoint = {peer['endpoint']}",
            f"AllowedIPs = {', '.join(peer['allowed'])}",
            f"PersistentKeepalive = {peer['keepalive_s']}",
        ]
    return "\n".join(lines) + "\n"
