"""What the agent counts, and the page that Prometheus reads."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from netctl.agent.metrics import Meters, MetricsServer
from netctl.model.errors import LocalError
from netctl.model.hoststate import PeerStatus
from netctl.model.keys import WireGuardKey
from netctl.node.context import Revival
from netctl.node.drift import Counters
from netctl.node.snapshot import OwnRelayStatus
from netctl.node.state import NodeState
from netctl.paths.effects import PathKind, PathStatus
from tests.support.fetch import fetched

ONE, TWO = WireGuardKey(bytes([9]) * 32), WireGuardKey(bytes([8]) * 32)


def values(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def counted(meters: Meters) -> dict[tuple[str, tuple[str, ...]], float]:
    return values(generate_latest(meters.registry).decode())


def seen(rx: int, tx: int) -> PeerStatus:
    return PeerStatus(endpoint=None, last_handshake_s=0.0, rx_bytes=rx, tx_bytes=tx)


def paths(one: PathKind) -> Mapping[WireGuardKey, PathStatus]:
    return {ONE: PathStatus(one)}


def test_bytes_belong_to_the_path_of_their_time() -> None:
    meters = Meters()
    meters.observe({}, {}, 0.0)
    meters.observe({ONE: seen(100, 10)}, paths("relay-udp"), 0.0)
    meters.observe({ONE: seen(150, 30)}, paths("direct"), 1.0)
    meters.observe({ONE: seen(7, 3)}, paths("direct"), 2.0)  # the engine was started anew
    found = counted(meters)
    assert found["netctl_path_bytes_total", ("received", "relay-udp")] == 100
    assert found["netctl_path_bytes_total", ("sent", "relay-udp")] == 10
    assert found["netctl_path_bytes_total", ("received", "direct")] == 57
    assert found["netctl_path_bytes_total", ("sent", "direct")] == 23


def test_an_idle_peer_waits_for_no_direct_path() -> None:
    """The time to a direct path counts from the first packet, not from when the pair was folded up."""
    meters = Meters()
    meters.observe({}, {}, 0.0)
    meters.observe({ONE: seen(0, 0)}, paths("idle"), 1.0)
    meters.path(ONE, "idle", 2.0)
    meters.path(ONE, "relay-udp", 100.0)
    meters.path(ONE, "direct", 101.5)
    found = counted(meters)
    assert found["netctl_time_to_direct_seconds_sum", ()] == 1.5
    assert found["netctl_time_to_direct_seconds_count", ()] == 1


def test_what_an_engine_carried_for_an_earlier_agent_is_not_counted_again() -> None:
    meters = Meters()
    meters.observe({ONE: seen(5000, 4000)}, paths("none"), 0.0)
    meters.observe({ONE: seen(5100, 4010), TWO: seen(7, 7)}, paths("direct"), 1.0)
    found = counted(meters)
    assert found["netctl_path_bytes_total", ("received", "none")] == 7
    assert found["netctl_path_bytes_total", ("received", "direct")] == 100
    assert found["netctl_path_bytes_total", ("sent", "direct")] == 10


def test_time_to_direct_runs_from_the_loss_of_the_path_before() -> None:
    meters = Meters()
    meters.observe({ONE: seen(0, 0)}, paths("none"), 10.0)
    meters.path(ONE, "relay-udp", 10.2)
    meters.path(ONE, "direct", 10.9)
    meters.path(ONE, "lan", 11.0)  # better, but it was direct already
    meters.path(ONE, "relay-udp", 20.0)
    meters.path(ONE, "direct", 22.0)
    found = counted(meters)
    assert found["netctl_time_to_direct_seconds_count", ()] == 2
    assert found["netctl_time_to_direct_seconds_sum", ()] == pytest.approx(2.9)
    assert found["netctl_path_changes_total", ("direct",)] == 2


def test_a_peer_that_is_gone_leaves_nothing() -> None:
    meters = Meters()
    for _ in range(3):
        meters.observe({ONE: seen(1, 1), TWO: seen(1, 1)}, {}, 0.0)
        meters.observe({}, {}, 1.0)
    assert not meters._seen
    assert not meters._without


@dataclass
class Host:
    """As much of an agent as the page reads."""

    tunnels: Any = field(default_factory=lambda: SimpleNamespace(meter=None, engine_faults=6))
    state: NodeState = field(default_factory=NodeState)
    context: Any = field(
        default_factory=lambda: SimpleNamespace(
            departures=(), counters=Counters(found=3, healed=2), revival=Revival(restarts=2)
        )
    )
    following: Any = field(
        default_factory=lambda: SimpleNamespace(
            own_relay=SimpleNamespace(
                status=OwnRelayStatus("up", bindings=8, forwarded_bytes=900, unheld=((40007, 40008),))
            )
        )
    )
    routes: Any = field(default_factory=lambda: SimpleNamespace(restored=5))
    rulesets: Any = field(default_factory=lambda: SimpleNamespace(restored=4))
    guard: Any = field(default_factory=lambda: SimpleNamespace(dropped=7))
    client: Any = field(default_factory=lambda: SimpleNamespace(state=SimpleNamespace(state="connected")))
    paths: Any = field(
        default_factory=lambda: SimpleNamespace(status=lambda: {ONE: PathStatus("direct", rtt_ms=12.5)})
    )


async def fetched_in_parts(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for byte in request:
        writer.write(bytes([byte]))
        await writer.drain()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def test_the_page() -> None:
    async def scenario() -> None:
        server = MetricsServer(cast(Any, Host()), "127.0.0.1:9")
        server._port = 0
        await server.start()
        assert server._server is not None
        port = server._server.sockets[0].getsockname()[1]
        try:
            head, _, body = (await fetched(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")).partition(
                b"\r\n\r\n"
            )
            assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain")
            found = values(body.decode())
            assert found["netctl_paths", ("direct",)] == 1
            assert found["netctl_paths", ("relay-udp",)] == 0
            assert found["netctl_round_trip_seconds", (ONE.short,)] == 0.0125
            assert found["netctl_mediator_connected", ()] == 1
            assert found["netctl_drift_healed_total", ()] == 2
            assert found["netctl_link_away", ()] == 0
            assert found["netctl_engine_restarts_total", ()] == 2
            assert found["netctl_filter_restored_total", ()] == 4
            assert found["netctl_routes_restored_total", ()] == 5
            assert found["netctl_faults_total", ()] == 7
            assert found["netctl_engine_faults_total", ()] == 6
            assert found["netctl_own_relay_up", ()] == 1
            assert found["netctl_own_relay_bindings", ()] == 8
            assert found["netctl_own_relay_bytes_total", ()] == 900
            assert found["netctl_own_relay_ports_unheld", ()] == 2
            whole = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"
            assert (await fetched(port, whole % b"/")).startswith(b"HTTP/1.1 404 ")
            for wrong in (b"x" * 10_000, b"GET /metrics HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\r\n\r\n"):
                assert (await fetched(port, wrong)).startswith(b"HTTP/1.1 400 Bad Request\r\n")
            assert (await fetched(port, whole % b"/metrics")).startswith(b"HTTP/1.1 200 "), "it goes on"
            slow = await fetched_in_parts(port, whole % b"/metrics")
            assert slow.startswith(b"HTTP/1.1 200 ")
        finally:
            server.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("address", ["9586", ":9586", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:x", "h:70000"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(LocalError, match="--metrics wants HOST:PORT"):
        MetricsServer(cast(Any, Host()), address)
