"""The agent's state in plain values: what `netctl status -o json` prints."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from netctl import __version__
from netctl.agent.doctorudp import carried, to_json
from netctl.agent.mtu import narrow
from netctl.config.guests import guests_in, with_guests
from netctl.model.document import Document
from netctl.model.errors import LocalError
from netctl.model.keys import WireGuardKey
from netctl.node.evaluate import member_name
from netctl.paths.effects import PathStatus

if TYPE_CHECKING:
    from netctl.agent.agent import Agent


def _addresses(agent: Agent, document: Document, name: str, key: WireGuardKey) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for network in document.networks_of(name):
        believed = agent.state.believed or agent.state.view
        lease = believed.leases.get((network.name, key)) if believed is not None else None
        if lease is not None:
            found[network.name] = [str(address) for address in lease.addresses]
        else:
            found[network.name] = [str(address) for address in network.addresses.get(name, ())]
    return found


def _peer(agent: Agent, document: Document, name: str, key: WireGuardKey) -> dict[str, Any]:
    view = agent.state.view
    seen = view.members.get(key) if view is not None else None
    path = agent.paths.status().get(key)
    status = agent.tunnels.statuses.get(key)
    session = status is not None and status.last_handshake_s > 0
    conditions = [condition.message for condition in agent.state.conditions if condition.peer == name]
    endpoint = path.endpoint if path is not None else status.endpoint if status is not None else None
    if not document.mediators and status is not None:
        endpoint = status.endpoint
    kind = path.kind if path is not None else "none"
    online = bool(seen.online) if seen is not None else bool(session)
    member = document.members.get(name)
    if document.mediators and member is not None and member.stock:
        online = kind != "none"  # it logs in nowhere: the relay hears it, or nobody does
    return {
        "name": name,
        "key": str(key),
        "stock": member is not None and member.stock,
        "online": online,
        "addresses": _addresses(agent, document, name, key),
        "path": "direct" if not document.mediators and session else kind,
        "endpoint": str(endpoint) if endpoint is not None else None,
        "rtt_ms": path.rtt_ms if path is not None else None,
        "since_s": round(time.monotonic() - path.since_s, 1) if path is not None and path.since_s else None,
        "via": agent.paths.relay_tls().at if kind == "relay-tls" else None,
        "tried": list(path.tried) if path is not None else [],
        "nat": path.peer_nat or None if path is not None else None,
        "hindrance": _hindrance(agent, path) if online else None,
        "last_handshake_s": round(time.time() - status.last_handshake_s, 1) if status and session else None,
        "rx_bytes": status.rx_bytes if status is not None else 0,
        "tx_bytes": status.tx_bytes if status is not None else 0,
        "condition": conditions[0] if conditions else None,
    }


def _hindrance(agent: Agent, path: PathStatus | None) -> str | None:
    """Why the path to a peer that is there is not direct, in words."""
    if path is None or path.kind in ("lan", "direct"):
        return None
    return "UDP is blocked at this host" if agent.paths.udp_blocked else path.hindrance


def _refused(agent: Agent, network: str) -> str | None:
    """Why a network is not up though it should be."""
    said = (one.message for one in agent.state.conditions if one.peer == f"networks.{network}")
    return next((message for message in said if message.startswith("not brought up")), None)


def status_of(agent: Agent) -> dict[str, Any]:
    """Everything that a person asks about this host."""
    link, state = agent.client.state, agent.state
    watch = agent.watch.status() if agent.watch is not None else None
    result: dict[str, Any] = {
        "member": None,
        "joined": state.joined.network if state.joined is not None else None,
        "key": str(agent.keys.wireguard),
        "generation": state.view.generation if state.view is not None else 0,
        "mediator": {
            "state": link.state,
            "since_s": round(time.monotonic() - link.since, 1),
            "error": link.error if link.state != "connected" else None,
            "refused": agent.client.refused,
        },
        "document": {"digest": None},
        "down": {"everything": state.down.everything, "networks": sorted(state.down.networks)},
        "networks": {},
        "peers": [],
        "conditions": [f"{condition.peer}: {condition.message}" for condition in agent.state.conditions],
        "drift": [departure.to_json() for departure in agent.patrol.drift],
        "drift_found": agent.patrol.counters.found,
        "drift_healed": agent.patrol.counters.healed,
        "drift_failed": agent.patrol.counters.failed,
        "version": __version__,
        "engine": agent.engine_kind,
        "data_path": agent.data_path,
        "engine_restarts": agent.revival.restarts,
        "link_away_s": round(time.monotonic() - away, 1)
        if (away := agent.revival.since) is not None
        else None,
        "faults": agent.guard.dropped,
        "relay_tls": to_json(agent.paths.relay_tls(), blocked=agent.paths.udp_blocked),
        "armed": None,
        "watch": watch,
        "refused": list(agent.commit.armory.refused()),
    }
    result["conditions"] += agent.store.losses
    try:
        record = agent.commit.armory.record()
        result["armed"] = record.plain() if record is not None else None
        if agent.commit.armory.lost is not None:
            result["conditions"].append(agent.commit.armory.lost)
    except LocalError as error:
        result["conditions"].append(str(error))
    if state.loaded is None:
        return result
    if agent.client.refused is not None:
        kept = f"this host keeps its last good view, of generation {result['generation']}"
        result["conditions"].append(f"the mediator's word is refused: {agent.client.refused}; {kept}")
    if watch is not None and watch["error"] is not None:
        result["conditions"].append(watch["error"])
    if (fragments := narrow(agent)) is not None:
        result["conditions"].append(f"{fragments[0]}; {fragments[1]}")
    if (said := carried(agent.paths.relay_tls(), blocked=agent.paths.udp_blocked)) is not None:
        result["conditions"].append(said)
    if agent.revival.since is not None:
        text = "the engine ended and is started again: until then the networks of this host are unreachable"
        result["conditions"].append(text)
    elif agent.revival.restarts:
        times = "once" if agent.revival.restarts == 1 else f"{agent.revival.restarts} times"
        result["conditions"].append(
            f"the engine ended {times} since this agent began, and was started again "
            f"(the last time within {agent.revival.lasted_s:.1f} s); its log says why"
        )
    if agent.trouble is not None:
        result["conditions"].append(agent.trouble)
    document = state.loaded.document
    result["document"] = {"digest": document.digest}
    if state.joined is not None and not document.networks:
        into = state.joined.network
        text = f"waits until the mediator's operator lets it into '{into}': `netctl members approve`"
        result["conditions"] = [text]
    document, _ = with_guests(document, guests_in(document, state.view))
    try:
        name = member_name(document, agent.keys.wireguard)
    except LocalError as error:
        result["conditions"].append(str(error))
        return result
    own = _addresses(agent, document, name, agent.keys.wireguard)
    result["member"] = name
    result["networks"] = {
        network.name: {
            "mode": network.mode.value,
            "addresses": own.get(network.name, []),
            "down": state.down.everything or network.name in state.down.networks,
            "refused": _refused(agent, network.name),
        }
        for network in document.networks_of(name)
    }
    peers: dict[str, WireGuardKey] = {}
    for network in document.networks_of(name):
        for other in network.member_names:
            key = document.members[other].wireguard
            if other != name and key is not None:
                peers[other] = key
    result["peers"] = [_peer(agent, document, other, key) for other, key in peers.items()]
    return result
