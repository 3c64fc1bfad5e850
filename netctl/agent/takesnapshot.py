"""Takes the snapshot of an agent from which `status` and `doctor` are computed."""

from __future__ import annotations

import time
from dataclasses import dataclass

from netctl.agent.following import Following
from netctl.agent.host import Host
from netctl.agent.mediators.controlclient import ControlClient
from netctl.agent.storage.commitstore import CommitStore
from netctl.agent.storage.statestore import StateStore
from netctl.agent.transport.pathrunner import PathRunner
from netctl.agent.transport.tunnels import Tunnels
from netctl.agent.watchers.documentwatch import DocumentWatch
from netctl.agent.watchers.firewallcheck import Firewall
from netctl.agent.watchers.routewatch import RouteWatch
from netctl.agent.watchers.rulesetwatch import Rulesets
from netctl.engine.links.pathmtu import path_mtu
from netctl.model.errors import LocalError
from netctl.node.context import Context
from netctl.node.diagnosis.mtu import endpoints
from netctl.node.snapshot import Snapshot
from netctl.system.clock import boottime
from netctl.system.guard import Guard


@dataclass(frozen=True, slots=True)
class Sources:
    """The parts of an agent that a snapshot reads."""

    context: Context
    store: StateStore
    commits: CommitStore
    client: ControlClient
    paths: PathRunner
    tunnels: Tunnels
    following: Following
    rulesets: Rulesets
    routes: RouteWatch
    host: Host
    guard: Guard
    watch: DocumentWatch | None
    firewall: Firewall


def take(of: Sources) -> Snapshot:
    """The present state. Reads the two files of commit-confirm and asks the kernel for MTUs; both are fast."""
    context, lost, commits, armed = of.context, of.store.losses, of.commits, None
    try:
        record = commits.record()
        armed = record.plain() if record is not None else None
        lost = (*lost, *((commits.lost,) if commits.lost is not None else ()))
    except LocalError as error:
        lost = (*lost, str(error))
    paths, tunnels, revival = of.paths.status(), of.tunnels.statuses, context.revival
    away = None
    if revival.since_s is not None:
        away = time.monotonic() - (boottime() - revival.since_s)
    return Snapshot(
        key=context.key,
        now_s=time.monotonic(),
        unix_s=time.time(),
        state=context.state,
        link=of.client.state,
        sharing=of.client.sharing,
        view_refused=of.client.refused,
        other_store=of.client.stores.trouble,
        paths=paths,
        tunnels=tunnels,
        relay_tls=of.paths.relay_tls(),
        own_relay=of.following.own_relay.status,
        udp_blocked=of.paths.udp_blocked,
        port=of.paths.port_state(),
        nat=of.paths.nat(),
        nat64=tuple(map(str, of.paths.nat64.prefixes)),
        filtering=of.paths.filtering(),
        allocation=of.paths.allocation(),
        port_mapping=of.paths.port_mapping(),
        path_mtus={endpoint: path_mtu(endpoint) for endpoint in endpoints(paths, tunnels)},
        drift=context.departures,
        drift_counters=context.counters,
        engine=of.following.engine_kind,
        data_path=of.following.data_path,
        engine_restarts=revival.restarts,
        link_lasted_s=revival.lasted_s,
        link_away_since=away,
        took_along=revival.took_along,
        filter_restored=of.rulesets.restored,
        routes_restored=of.routes.restored,
        taken_away=tuple(filter(None, (of.rulesets.condition(), of.routes.condition()))),
        blocked=of.firewall.obstacles,
        not_back=context.not_back,
        unmet=context.unmet,
        undone=of.host.troubles(),
        faults=of.guard.dropped,
        engine_faults=of.tunnels.engine_faults,
        armed=armed,
        refused=commits.refused(),
        watch=of.watch.status() if of.watch is not None else None,
        store=lost,
        trouble=context.trouble,
    )
