"""The agent's metrics for Prometheus, and the page that serves them (`netctl agent --metrics 127.0.0.1:9586`).

Peers are labelled by name, as operators know them. Nothing listens without `--metrics`.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Count
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client import Counter as Total
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from netctl.agent.agent import Agent
from netctl.model.hoststate import PeerStatus
from netctl.model.keys import WireGuardKey
from netctl.model.portspans import ports_in
from netctl.paths.effects import PathStatus
from netctl.system.pageserver import PageServer

KINDS = ("lan", "direct", "relay-udp", "relay-tls", "idle", "none")
DIRECT = frozenset({"lan", "direct"})
BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0)


class Meters:
    """Counters that grow while the agent runs. `now`: monotonic seconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._time_to_direct = Histogram(
            "netctl_time_to_direct_seconds",
            "From a pair without a direct path to one with it",
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self._bytes = Total(
            "netctl_path_bytes",
            "Bytes to and from peers by the kind of path they had",
            ["path", "direction"],
            registry=self.registry,
        )
        self._changes = Total(
            "netctl_path_changes", "Paths chosen anew, by kind", ["path"], registry=self.registry
        )
        self._without: dict[WireGuardKey, float] = {}
        """Since when a peer has had no direct path, in monotonic seconds."""
        self._seen: dict[WireGuardKey, tuple[int, int]] | None = None
        """The engine's (received, sent) bytes by peer; None at first: bytes until then belong to an earlier agent."""

    def path(self, key: WireGuardKey, kind: str, now: float) -> None:
        """Record a new path of a peer."""
        self._changes.labels(kind).inc()
        if kind == "idle":
            self._without.pop(key, None)  # no direct path is wanted
        elif kind not in DIRECT:
            self._without.setdefault(key, now)
        elif (began := self._without.pop(key, None)) is not None:
            self._time_to_direct.observe(now - began)

    def observe(
        self,
        statuses: Mapping[WireGuardKey, PeerStatus],
        paths: Mapping[WireGuardKey, PathStatus],
        now: float,
    ) -> None:
        """Record the engine's counters, about once a second. Counters that fell belong to a new engine."""
        first, seen = self._seen is None, self._seen or {}
        for key, status in statuses.items():
            kind = paths[key].kind if key in paths else "none"
            if key not in seen and kind not in DIRECT and kind != "idle":
                self._without.setdefault(key, now)
            counts = (status.rx_bytes, status.tx_bytes)
            before = seen.get(key, counts if first else (0, 0))
            for name, was, count in zip(("received", "sent"), before, counts, strict=True):
                self._bytes.labels(kind, name).inc(count - was if count >= was else count)
        for gone in seen.keys() - statuses.keys():
            self._without.pop(gone, None)
        self._seen = {key: (status.rx_bytes, status.tx_bytes) for key, status in statuses.items()}


class _Now(Collector):
    """Gauges of the present state, read at each request."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def collect(self) -> Iterable[Metric]:
        """The agent's gauges."""
        agent = self._agent
        paths = agent.paths.status()
        kinds = Count[str](status.kind for status in paths.values())
        peers = GaugeMetricFamily("netctl_paths", "Peers by the kind of their path", labels=["path"])
        for kind in KINDS:
            peers.add_metric([kind], kinds[kind])
        yield peers
        view = agent.state.view
        names = {key: member.name for key, member in view.members.items()} if view is not None else {}
        trip = GaugeMetricFamily("netctl_round_trip_seconds", "Round trip on a direct path", labels=["peer"])
        for key, status in paths.items():
            if status.rtt_ms is not None:
                trip.add_metric([names.get(key, key.short)], status.rtt_ms / 1000)
        yield trip
        connected = agent.client.state.state == "connected"
        yield GaugeMetricFamily("netctl_mediator_connected", "1 while logged in", value=float(connected))
        generation = float(view.generation) if view is not None else 0.0
        yield GaugeMetricFamily(
            "netctl_view_generation", "Generation of the mediator's view", value=generation
        )
        yield GaugeMetricFamily(
            "netctl_tasks", "Tasks of the agent now", value=float(len(asyncio.all_tasks()))
        )
        yield GaugeMetricFamily(
            "netctl_drift", "Departures from the document now", value=float(len(agent.context.departures))
        )
        relay = agent.following.own_relay.status
        if relay.state != "off":
            yield GaugeMetricFamily(
                "netctl_own_relay_up", "1 while this member relays", value=float(relay.state == "up")
            )
            yield GaugeMetricFamily(
                "netctl_own_relay_bindings",
                "Members that are bound at this member's relay",
                value=float(relay.bindings),
            )
            yield CounterMetricFamily(
                "netctl_own_relay_bytes",
                "Bytes passed on by this member's relay",
                value=float(relay.forwarded_bytes),
            )
            yield GaugeMetricFamily(
                "netctl_own_relay_ports_unheld",
                "Ports of this member's relay that other programs hold",
                value=float(len(ports_in(relay.unheld))),
            )
        away = float(agent.context.revival.since_s is not None)
        yield GaugeMetricFamily("netctl_link_away", "1 while the link is gone and brought back", value=away)
        for name, words, count in (
            (
                "engine_restarts",
                "How often the engine ended and was started again",
                agent.context.revival.restarts,
            ),
            (
                "filter_restored",
                "How often a table was flushed or changed, and loaded again",
                agent.rulesets.restored,
            ),
            (
                "routes_restored",
                "How often routes or addresses were taken away, and set again",
                agent.routes.restored,
            ),
            ("faults", "Datagrams, frames and timers whose handling failed", agent.guard.dropped),
            ("engine_faults", "Packets that the engine could not handle", agent.tunnels.engine_faults),
        ):
            yield CounterMetricFamily(f"netctl_{name}", words, value=float(count))
        for name, value in (
            ("found", agent.context.counters.found),
            ("healed", agent.context.counters.healed),
        ):
            yield CounterMetricFamily(f"netctl_drift_{name}", f"Departures {name} so far", value=float(value))


class MetricsServer(PageServer):
    """Serves GET /metrics (Prometheus text format)."""

    def __init__(self, agent: Agent, address: str) -> None:
        """`address` is HOST:PORT. Raises LocalError."""
        meters = Meters()
        pages = {"/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(meters.registry))}
        super().__init__(address, pages, example_port=9586)
        agent.tunnels.meter = meters
        meters.registry.register(_Now(agent))
