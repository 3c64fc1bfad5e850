"""Takes the snapshot of an agent that `status` and `doctor` are projections of."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from netctl.engine.pathmtu import path_mtu
from netctl.model.errors import LocalError
from netctl.node.diagnosis.mtu import endpoints
from netctl.node.snapshot import Snapshot

if TYPE_CHECKING:
    from netctl.agent.agent import Agent


def take(agent: Agent) -> Snapshot:
    """What is so just now. Reads the two files of commit-confirm and asks the kernel for MTUs, which takes no time."""
    store = agent.store.losses
    armory, armed = agent.commit.armory, None
    try:
        armed = agent.commit.pending()
        store = (*store, *((armory.lost,) if armory.lost is not None else ()))
    except LocalError as error:
        store = (*store, str(error))
    paths, tunnels = agent.paths.status(), agent.tunnels.statuses
    return Snapshot(
        key=agent.keys.wireguard,
        now_s=time.monotonic(),
        unix_s=time.time(),
        state=agent.state,
        link=agent.client.state,
        view_refused=agent.client.refused,
        paths=paths,
        tunnels=tunnels,
        relay_tls=agent.paths.relay_tls(),
        udp_blocked=agent.paths.udp_blocked,
        nat=agent.paths.nat(),
        filtering=agent.paths.filtering(),
        allocation=agent.paths.allocation(),
        port_mapping=agent.paths.port_mapping(),
        path_mtus={endpoint: path_mtu(endpoint) for endpoint in endpoints(paths, tunnels)},
        drift=agent.patrol.drift,
        drift_counters=agent.patrol.counters,
        engine=agent.engine_kind,
        data_path=agent.data_path,
        engine_restarts=agent.revival.restarts,
        link_lasted_s=agent.revival.lasted_s,
        link_away_since=agent.revival.since,
        took_along=agent.revival.took_along,
        filter_restored=agent.rulesets.restored,
        routes_restored=agent.routes.restored,
        taken_away=tuple(filter(None, (agent.rulesets.condition(), agent.routes.condition()))),
        unmet=agent.unmet,
        undone=agent.host.troubles(),
        faults=agent.guard.dropped,
        armed=armed,
        refused=armory.refused(),
        watch=agent.watch.status() if agent.watch is not None else None,
        store=store,
        trouble=agent.trouble,
    )
