"""What a monitoring system reads of a relay: `/metrics`, `/healthz`, `/readyz` (RFC 9110), on an address of its own.

The pages live in a thread with an event loop of its own. They ask the relay's loop at its status socket, as
`netctl-mediator status` does: an answer shows that the loop that moves packets still runs. The loop makes one answer a
second at most, however many requests there are.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from mediator.shell.relaystatus import ask_relay
from netctl.model.forpeople import counted
from netctl.system.pageserver import TEXT, Page, PageServer

EXAMPLE_PORT = 9588
FRESH_S = 1.0
"""A relay that has stopped shows as such after this time, and monitoring asks every some seconds."""
SILENT = b"the relay's loop does not answer\n"
_DROPPED = {
    "dropped_stranger": "stranger",
    "dropped_type": "type",
    "dropped_rate": "limit",
    "dropped_nowhere": "nowhere",
}
"""The relay's counters, by the label that they have here."""


def add_metrics(parser: argparse.ArgumentParser, option: str) -> None:
    """The option; nothing listens unless it is given."""
    parser.add_argument(
        option,
        metavar="HOST:PORT",
        help="serve the relay's /metrics for Prometheus, /healthz and /readyz there",
    )


class _Status(Collector):
    """The families of one answer of the relay."""

    def __init__(self, status: dict[str, Any]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        """Each with its help."""
        status = self._status
        passed = CounterMetricFamily(
            "netctl_relay_bytes",
            "Bytes passed on, by who the two members of the pair are",
            labels=["pair"],
        )
        for kind, count in status["passed"].items():
            passed.add_metric([kind], float(count))
        yield passed
        dropped = CounterMetricFamily(
            "netctl_relay_dropped", "Datagrams that went nowhere, by reason", labels=["reason"]
        )
        for name, reason in _DROPPED.items():
            dropped.add_metric([reason], float(status["counters"][name]))
        yield dropped
        yield CounterMetricFamily(
            "netctl_relay_expired_grants",
            "Messages with a grant that is over by this relay's clock",
            value=float(status["expired"]),
        )
        yield CounterMetricFamily(
            "netctl_relay_ahead_grants",
            "Messages with a grant that ends too late by this relay's clock",
            value=float(status["ahead"]),
        )
        yield CounterMetricFamily(
            "netctl_relay_faults", "Datagrams and frames whose handling failed", value=float(status["faults"])
        )
        for name, words in {
            "bindings": "Members that are bound, each to one peer",
            "members": "Members whose traffic is counted",
            "pairs_in_all": "Pairs with a stock app",
            "connections": "Members whose UDP is blocked, by their connections over TLS",
        }.items():
            yield GaugeMetricFamily(f"netctl_relay_{name}", words, value=float(status[name]))
        yield GaugeMetricFamily(
            "netctl_relay_ports_unheld",
            "Relay ports that other programs hold, so that nothing is relayed at them",
            value=float(status["unheld_in_all"]),
        )
        yield GaugeMetricFamily(
            "netctl_relay_clock_behind_seconds",
            "Seconds by which this relay's clock is behind a mediator's, at least",
            value=float(status["clock_behind_s"]),
        )


class RecentStatus:
    """The relay's status, at most `FRESH_S` old: the loop that moves packets goes through all bindings to make it."""

    def __init__(self, ask: Callable[[], dict[str, Any] | None], clock: Callable[[], float]) -> None:
        """`ask`: asks the relay; None: it does not answer."""
        self._ask, self._clock = ask, clock
        self._status: dict[str, Any] | None = None
        self._fresh_until = float("-inf")

    def __call__(self) -> dict[str, Any] | None:
        """The status. None: the relay did not answer."""
        if self._clock() >= self._fresh_until:
            self._status = self._ask()
            self._fresh_until = self._clock() + FRESH_S
        return self._status


class RelayPages(PageServer):
    """The three pages of the relay that runs on a state directory."""

    def __init__(self, address: str, state: Path) -> None:
        """`address`: HOST:PORT. Raises LocalError."""
        recent = RecentStatus(lambda: ask_relay(state), time.monotonic)

        def metrics() -> tuple[int, str, bytes]:
            status = recent()
            if status is None:
                return 503, TEXT, SILENT
            registry = CollectorRegistry()
            registry.register(_Status(status))
            return 200, CONTENT_TYPE_LATEST, generate_latest(registry)

        def health() -> tuple[int, str, bytes]:
            return (503, TEXT, SILENT) if recent() is None else (200, TEXT, b"ok\n")

        def ready() -> tuple[int, str, bytes]:
            status = recent()
            if status is None:
                return 503, TEXT, SILENT
            missing = status["unheld_in_all"]
            ports = counted(status["ports"], "relay port")
            words = f"ok, without {missing} of {ports}\n" if missing else "ok\n"
            return 200, TEXT, words.encode()

        pages: dict[str, Page] = {"/metrics": metrics, "/healthz": health, "/readyz": ready}
        super().__init__(address, pages, example_port=EXAMPLE_PORT)


@contextmanager
def serve_pages(address: str | None, state: Path) -> Iterator[None]:
    """Serve them for as long as the block runs. Raises LocalError for an address that cannot be had."""
    if address is None:
        yield
        return
    pages = RelayPages(address, state)
    started: Future[asyncio.AbstractEventLoop] = Future()
    over = asyncio.Event()

    async def live() -> None:
        try:
            await pages.start()
        except Exception as error:
            started.set_exception(error)
            return
        started.set_result(asyncio.get_running_loop())
        await over.wait()
        pages.close()

    thread = threading.Thread(target=asyncio.run, args=[live()], name="metrics", daemon=True)
    thread.start()
    loop = started.result()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
