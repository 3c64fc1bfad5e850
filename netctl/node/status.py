"""Turns a snapshot into plain values: the content of `netctl status -o json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from netctl import __version__
from netctl.config.resolve.guests import guests_in, with_guests
from netctl.model.addresses import address_text
from netctl.model.document import Document
from netctl.model.errors import LocalError
from netctl.model.forpeople import counted
from netctl.model.keys import WireGuardKey
from netctl.model.portspans import spans_text
from netctl.node.diagnosis.mtu import narrow
from netctl.node.diagnosis.udp import carried, to_json
from netctl.node.evaluate import member_name
from netctl.node.ownport import WORDS, is_fixed, troubled_port
from netctl.node.sharing import ADVICE, shared_key
from netctl.node.snapshot import OwnRelayStatus, Snapshot
from netctl.paths.effects import PathStatus

NAMED = 8
"""Peers with a condition of their own; where more have one, the cause is near this host."""


def _addresses(snapshot: Snapshot, document: Document) -> dict[str, dict[str, list[str]]]:
    """The addresses of every member by name and network."""
    believed = snapshot.state.believed or snapshot.state.view
    leases = believed.leases if believed is not None else {}
    found: dict[str, dict[str, list[str]]] = {}
    for network in document.networks.values():
        for name in network.member_names:
            key = document.members[name].wireguard
            lease = leases.get((network.name, key)) if key is not None else None
            addresses = lease.addresses if lease is not None else network.addresses.get(name, ())
            found.setdefault(name, {})[network.name] = [address_text(address) for address in addresses]
    return found


def _peer(
    snapshot: Snapshot,
    document: Document,
    name: str,
    key: WireGuardKey,
    addresses: Mapping[str, list[str]],
    condition: str | None,
) -> dict[str, Any]:
    view = snapshot.state.view
    seen = view.members.get(key) if view is not None else None
    path = snapshot.paths.get(key)
    status = snapshot.tunnels.get(key)
    session = status is not None and status.last_handshake_s > 0
    endpoint = path.endpoint if path is not None else status.endpoint if status is not None else None
    if not document.mediators and status is not None:
        endpoint = status.endpoint
    kind = path.kind if path is not None else "none"
    online = bool(seen.online) if seen is not None else bool(session)
    known = seen is None or seen.online is not None
    member = document.members.get(name)
    if document.mediators and member is not None and member.stock:
        # A stock peer logs in nowhere: it is online if the relay or the tunnel hears it.
        online, known = kind != "none", True
    return {
        "name": name,
        "key": str(key),
        "stock": member is not None and member.stock,
        "online": online,
        "presence_known": known,
        "addresses": addresses,
        "path": "direct" if not document.mediators and session else kind,
        "endpoint": str(endpoint) if endpoint is not None else None,
        "rtt_ms": path.rtt_ms if path is not None else None,
        "since_s": round(snapshot.now_s - path.since_s, 1) if path is not None and path.since_s else None,
        "via": snapshot.relay_tls.at if kind == "relay-tls" else None,
        "tried": list(path.tried) if path is not None else [],
        "nat": path.peer_nat or None if path is not None else None,
        "hindrance": _blocker(snapshot, path) if online else None,
        "mtu": path.mtu if path is not None else None,
        "distrust": path.distrust if path is not None and online else None,
        "last_handshake_s": _ago(snapshot, status.last_handshake_s) if status and session else None,
        "rx_bytes": status.rx_bytes if status is not None else 0,
        "tx_bytes": status.tx_bytes if status is not None else 0,
        "condition": condition,
        "answers": path.answers if path is not None else None,
    }


def _ago(snapshot: Snapshot, unix_s: float) -> float:
    """Seconds since a Unix time, never below 0: a clock that was set back may give a time in the future."""
    return max(0.0, round(snapshot.unix_s - unix_s, 1))


def _blocker(snapshot: Snapshot, path: PathStatus | None) -> str | None:
    """Why the path to an online peer is not direct, in words."""
    if path is None or path.kind in ("lan", "direct", "idle"):
        return None
    if snapshot.udp_blocked:
        return "UDP is blocked at this host"
    port = snapshot.port
    return f"this host's port: {WORDS[port.verdict]}" if port.verdict != "fit" else path.blocker


def trouble_of_port(snapshot: Snapshot) -> tuple[str, str] | None:
    """The problem of the shared port, and what to do about it; None: there is none."""
    document = snapshot.state.document
    member = document.member_by_key(snapshot.key) if document is not None else None
    return troubled_port(snapshot.port, fixed=member is not None and is_fixed(member))


def _refused(snapshot: Snapshot, network: str) -> str | None:
    """Why a network is not up although it should be."""
    said = (one.message for one in snapshot.state.conditions if one.peer == f"networks.{network}")
    return next((message for message in said if message.startswith("not brought up")), None)


def unheld_ports(relay: OwnRelayStatus) -> str | None:
    """Which ports this member's relay works without, for people; None: it has all."""
    if relay.state != "up" or not relay.unheld:
        return None
    return (
        f"this member's relay works without UDP {spans_text(relay.unheld)}, which other programs hold: pairs with "
        "these ports go over other relays"
    )


def own_relay(snapshot: Snapshot) -> dict[str, Any] | None:
    """The relay that this member is; None: it is none."""
    relay = snapshot.own_relay
    if relay.state == "off":
        return None
    return {
        "state": relay.state,
        "error": relay.error,
        "bindings": relay.bindings,
        "forwarded_bytes": relay.forwarded_bytes,
        "clock_behind_s": relay.clock_behind_s,
        "unheld": [list(span) for span in relay.unheld],
        "blocked": [str(one) for one in snapshot.blocked if one.relay],
        "since_s": round(snapshot.now_s - relay.since_s, 1),
    }


def status_of(snapshot: Snapshot) -> dict[str, Any]:
    """The whole status of this host."""
    link, state = snapshot.link, snapshot.state
    watch = dict(snapshot.watch) if snapshot.watch is not None else None
    result: dict[str, Any] = {
        "member": None,
        "joined": state.joined.network if state.joined is not None else None,
        "key": str(snapshot.key),
        "generation": state.view.generation if state.view is not None else 0,
        "mediator": {
            "state": link.state,
            "since_s": round(snapshot.now_s - link.since, 1),
            "error": link.error if link.state != "connected" else None,
            "refused": snapshot.view_refused,
        },
        "document": {"digest": None},
        "down": {"everything": state.down.everything, "networks": sorted(state.down.networks)},
        "networks": {},
        "peers": [],
        "conditions": [f"{condition.peer}: {condition.message}" for condition in snapshot.state.conditions],
        "drift": [departure.to_json() for departure in snapshot.drift],
        "drift_found": snapshot.drift_counters.found,
        "drift_healed": snapshot.drift_counters.healed,
        "drift_failed": snapshot.drift_counters.failed,
        "version": __version__,
        "engine": snapshot.engine,
        "data_path": snapshot.data_path,
        "engine_restarts": snapshot.engine_restarts,
        "filter_restored": snapshot.filter_restored,
        "routes_restored": snapshot.routes_restored,
        "link_away_s": round(snapshot.now_s - away, 1)
        if (away := snapshot.link_away_since) is not None
        else None,
        "faults": snapshot.faults,
        "engine_faults": snapshot.engine_faults,
        "relay_tls": to_json(snapshot.relay_tls, snapshot.now_s, blocked=snapshot.udp_blocked),
        "own_relay": own_relay(snapshot),
        "armed": dict(snapshot.armed) if snapshot.armed is not None else None,
        "watch": watch,
        "refused": list(snapshot.refused),
    }
    result["conditions"] += snapshot.store
    if (shared := shared_key(link, snapshot.sharing, snapshot.now_s)) is not None:
        result["conditions"].append(f"{shared}; {ADVICE}")
    if state.loaded is None:
        return result
    if snapshot.view_refused is not None:
        kept = f"this host keeps its last good view, of generation {result['generation']}"
        result["conditions"].append(f"the mediator's word is refused: {snapshot.view_refused}; {kept}")
    if snapshot.other_store is not None:
        result["conditions"].append(snapshot.other_store)
    if watch is not None and watch["error"] is not None:
        result["conditions"].append(watch["error"])
    if (fragments := narrow(snapshot)) is not None:
        result["conditions"].append(f"{fragments[0]}; {fragments[1]}")
    if (said := carried(snapshot.relay_tls, blocked=snapshot.udp_blocked)) is not None:
        result["conditions"].append(said)
    if snapshot.own_relay.error is not None:
        result["conditions"].append(f"this member does not relay for others: {snapshot.own_relay.error}")
    if (said := unheld_ports(snapshot.own_relay)) is not None:
        result["conditions"].append(said)
    if snapshot.port.verdict == "dead":
        text, advice = trouble_of_port(snapshot) or ("", "")
        result["conditions"].append(f"{text}; {advice}")
    if snapshot.link_away_since is not None:
        text = "the engine ended and is started again: until then the networks of this host are unreachable"
        result["conditions"].append(text)
    elif snapshot.engine_restarts:
        times = "once" if snapshot.engine_restarts == 1 else f"{snapshot.engine_restarts} times"
        result["conditions"].append(
            f"the engine ended {times} since this agent began, and was started again "
            f"(the last time within {snapshot.link_lasted_s:.1f} s); its log says why"
            + (
                f"; with it went, to be made again: {', '.join(along)}"
                if (along := snapshot.took_along)
                else ""
            )
        )
    if snapshot.engine_faults:
        result["conditions"].append(
            f"the engine could not handle {snapshot.engine_faults} of what came in, and dropped it: a fault of netctl; "
            "its log says where"
        )
    if snapshot.not_back is not None:
        result["conditions"].append(f"going back from what nobody confirmed: {snapshot.not_back}")
    if snapshot.unmet is not None:
        said = (
            f"this host could not be brought to its document: {snapshot.unmet}; it is tried again by itself"
        )
        result["conditions"].append(said)
    result["conditions"] += [*snapshot.undone, *snapshot.taken_away, *map(str, snapshot.blocked)]
    if snapshot.trouble is not None:
        result["conditions"].append(snapshot.trouble)
    document = state.loaded.document
    result["document"] = {"digest": document.digest}
    if state.joined is not None and not document.networks:
        into = state.joined.network
        text = f"waits until the mediator's operator lets it into '{into}': `netctl members approve`"
        result["conditions"] = [text]
    document, _ = with_guests(document, guests_in(document, state.view))
    try:
        name = member_name(document, snapshot.key)
    except LocalError as error:
        result["conditions"].append(str(error))
        return result
    addresses = _addresses(snapshot, document)
    own = addresses.get(name, {})
    result["member"] = name
    result["networks"] = {
        network.name: {
            "mode": network.mode.value,
            "addresses": own.get(network.name, []),
            "down": state.down.everything or network.name in state.down.networks,
            "refused": _refused(snapshot, network.name),
        }
        for network in document.networks_of(name)
    }
    peers: dict[str, WireGuardKey] = {}
    for network in document.networks_of(name):
        for other in network.member_names:
            key = document.members[other].wireguard
            if other != name and key is not None:
                peers[other] = key
    conditions = {one.peer: one.message for one in reversed(state.conditions)}  # of several the first is told
    result["peers"] = [
        _peer(snapshot, document, other, key, addresses.get(other, {}), conditions.get(other))
        for other, key in peers.items()
    ]
    small = [peer for peer in result["peers"] if peer["mtu"] is not None]
    result["conditions"] += [
        f"the way to {peer['name']} carries packets of up to {peer['mtu']} bytes, and its routes have that size"
        for peer in small[:NAMED]
    ]
    distrusted = [peer for peer in result["peers"] if peer["distrust"] is not None]
    if distrusted:
        more = f" (and {counted(len(distrusted) - 1, 'more peer')})" if len(distrusted) > 1 else ""
        first = distrusted[0]
        result["conditions"].append(f"{first['name']}{more} goes by {first['path']}: {first['distrust']}")
    return result
