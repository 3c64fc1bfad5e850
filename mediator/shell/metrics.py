"""The mediator's metrics for Prometheus, and its health pages (`serve --metrics 127.0.0.1:9587`).

Serves `/metrics`, `/healthz` (the event loop answers) and `/readyz` (it can admit new members; else 503 and the
reason). Nothing listens without `--metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from netctl.system.pageserver import TEXT, Page, PageServer

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Meters:
    """Counters that grow while the mediator runs."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._logins = Counter("netctl_mediator_logins", "Members that logged in", registry=self.registry)
        self._dropped = Counter(
            "netctl_mediator_dropped",
            "Connections that were refused or ended, by reason",
            ["reason"],
            registry=self.registry,
        )
        self._store = Histogram(
            "netctl_mediator_store_seconds",
            "From asking the store to its answer",
            ["result"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self._bus = Histogram(
            "netctl_mediator_bus_seconds",
            "From sending a batch of messages to the bus's answer that it has them",
            ["result"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self._messages = Counter(
            "netctl_mediator_bus_messages", "Messages that the bus has taken", registry=self.registry
        )
        self._told = Counter(
            "netctl_mediator_news", "Members that were told of a change, each time", registry=self.registry
        )

    def logged_in(self) -> None:
        """Count a login."""
        self._logins.inc()

    def dropped(self, reason: str) -> None:
        """Count a connection that the mediator ended; `reason`: the error code sent to the client."""
        self._dropped.labels(reason).inc()

    def told(self, members: int) -> None:
        """Count a message to `members` members."""
        self._told.inc(members)

    def store(self, seconds: float, *, kept: bool) -> None:
        """Record an answer of the store."""
        self._store.labels("kept" if kept else "error").observe(seconds)

    def bus(self, seconds: float, messages: int, taken: bool) -> None:
        """Record an answer of the bus to a batch of messages."""
        self._bus.labels("taken" if taken else "error").observe(seconds)
        if taken:
            self._messages.inc(messages)


class _Now(Collector):
    """Gauges of the present state, read at each request."""

    def __init__(self, values: Callable[[], dict[str, tuple[str, float]]], faults: Callable[[], int]) -> None:
        self._values = values
        self._faults = faults

    def collect(self) -> Iterable[Metric]:
        """The gauges, each with its help text."""
        for name, (words, value) in self._values().items():
            yield GaugeMetricFamily(f"netctl_mediator_{name}", words, value=value)
        yield CounterMetricFamily(
            "netctl_mediator_faults",
            "Datagrams, frames and timers whose handling failed",
            value=float(self._faults()),
        )


class HealthPage(PageServer):
    """Serves `/metrics`, `/healthz` and `/readyz`."""

    def __init__(
        self,
        address: str,
        meters: Meters,
        values: Callable[[], dict[str, tuple[str, float]]],
        faults: Callable[[], int],
        unready: Callable[[], str | None],
    ) -> None:
        """`address`: HOST:PORT; `values`: gauges with help; `unready`: why not ready, or None. Raises LocalError."""

        def readiness() -> tuple[int, str, bytes]:
            reason = unready()
            return 503 if reason else 200, TEXT, f"{reason or 'ok'}\n".encode()

        pages: dict[str, Page] = {
            "/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(meters.registry)),
            "/healthz": lambda: (200, TEXT, b"ok\n"),
            "/readyz": readiness,
        }
        super().__init__(address, pages, example_port=9587)
        meters.registry.register(_Now(values, faults))
