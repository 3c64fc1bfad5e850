"""Programs around each UDP socket of ours, for `test_hostile_datagrams`: run as `python hostilesockets.py NAME …`.

Each prints one JSON line when it listens: the ports that can be sent to. After that it answers a line of its
standard input with one: what it counted. What it is asked to show at the end is that it goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from mediator.core.relay_table import RelayTable
from mediator.shell.relayserver import RelayServer
from mediator.shell.stunserver import StunServer
from netctl.agent.storage.keyfiles import Keys
from netctl.agent.transport.mapper import PortMapRunner
from netctl.agent.transport.pathrunner import PathRunner
from netctl.agent.transport.relaytls import RelayTls
from netctl.agent.transport.sideports import BatchRunner
from netctl.engine.filter.rewrites import Rewrites
from netctl.model.addresses import SocketAddress
from netctl.model.keys import WireGuardKey
from netctl.paths.effects import OpenBatch, PathStatus
from netctl.paths.mapping import Search
from netctl.system.guard import Guard
from netctl.wire import relay
from netctl.wire.control import Candidate, Introduction, Punch

SECRET = bytes(range(32))
RELAY_PORTS = range(40000, 40004)
STUN_PORTS = (3478, 3479)
ENGINE_PORT = 51820
PATIENCE_S = 240.0
"""Of a busy machine."""


def say(value: Any) -> None:
    print(json.dumps(value), flush=True)


async def asked() -> str:
    """The next line of the standard input, empty at its end."""
    line: str = await asyncio.to_thread(sys.stdin.readline)
    return line.strip()


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def relay_server() -> None:
    server = RelayServer("::", RELAY_PORTS, RelayTable(SECRET, b"c" * 32, RELAY_PORTS))
    thread = threading.Thread(target=server.serve)
    thread.start()
    say(list(RELAY_PORTS)[:2])
    sys.stdin.readline()
    say(
        {
            "faults": server.guard.dropped,
            "nowhere": server.counters.dropped_nowhere,
            "alive": thread.is_alive(),
        }
    )
    sys.stdin.readline()
    server.stop()
    thread.join()
    server.close()


def ask(client: socket.socket, question: bytes, server: tuple[str, int]) -> bytes:
    """The answer to one of so many questions: what came before may have filled the server's queue. TimeoutError."""
    client.settimeout(20)
    for _ in range(10):
        client.sendto(question, server)
        with contextlib.suppress(TimeoutError):
            return client.recv(2048)
    raise TimeoutError(f"no answer from {server}")


def relay_client(host: str) -> None:
    """Whether the relay answers a member."""
    allocation = relay.Allocation(RELAY_PORTS[0], RELAY_PORTS[1], int(time.time()) + 60)
    key = allocation.key(SECRET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        answer = ask(client, relay.seal(relay.Bind(allocation, b"t" * 8), key), (host, RELAY_PORTS[1]))
        say({"alive": isinstance(relay.open_message(answer, key), relay.Cookie)})


async def stun_server() -> None:
    guard = Guard(log)
    servers = [StunServer("::", port, "", guard) for port in STUN_PORTS]
    servers[0].sibling, servers[1].sibling = servers[1], servers[0]
    for server in servers:
        server.start()
    say(list(STUN_PORTS))
    await asked()
    say({"faults": guard.dropped})
    await asked()


def stun_client(host: str) -> None:
    from netctl.wire import stun

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        mapped = stun.decode(ask(client, stun.binding_request(bytes(12)), (host, STUN_PORTS[0]))).mapped
        say({"alive": mapped is not None and mapped.port == client.getsockname()[1]})


async def paths(kind: str, number: str, own: str, peer: str) -> None:
    """The path manager on the shared port; once it is asked, it is introduced to the other one of these."""
    privates = [X25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2)]
    mine, theirs = privates if number == "1" else privates[::-1]
    key = WireGuardKey(theirs.public_key().public_bytes_raw())
    guard, direct = Guard(log), asyncio.Event()

    def changed(_: WireGuardKey, status: PathStatus) -> None:
        if status.kind in ("lan", "direct"):
            direct.set()

    async def steer(_: Mapping[WireGuardKey, SocketAddress], __: frozenset[WireGuardKey]) -> None:
        raise TimeoutError("an engine that does not answer")

    keys = Keys(mine, Ed25519PrivateKey.generate())
    engine = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    if kind != "netctl-wg":  # the port is somebody's, as beside any engine
        engine.bind(("::", ENGINE_PORT))
    runner = PathRunner(keys, steer, lambda _: None, changed, Rewrites(Path("/run/rewrites.json")), guard)
    runner.use_port(kind, ENGINE_PORT)
    runner.peers(frozenset({key}))
    runner.look_around([], [ip_address(own)], port_mapping=False)
    runner.logged_in((), None)
    say([ENGINE_PORT])
    await asked()
    say({"faults": guard.dropped})  # steering fails from the first ping on, and either side may be the first
    await asked()
    runner.message(Introduction(str(key), 1, [Candidate("host", f"{peer}:{ENGINE_PORT}")]))
    runner.message(Punch(str(key), 0))
    async with asyncio.timeout(PATIENCE_S):
        await direct.wait()
    say({"alive": True})
    await asked()
    runner.close()


async def batches() -> None:
    guard, heard, ports = Guard(log), list[bytes](), list[int]()
    runner = BatchRunner(
        Rewrites(Path("/run/rewrites.json")),
        lambda _, opened: ports.extend(opened),
        lambda _, __, data, ___: heard.append(data),
        guard,
    )
    runner.perform(OpenBatch(1, 4))
    say(ports[:2])
    await asked()
    heard.clear()
    say(ports[:1])
    await asked()
    async with asyncio.timeout(PATIENCE_S):  # what was sent may still be on its way
        while heard[-1:] != [b"good"]:
            await asyncio.sleep(0.05)
    say({"faults": guard.dropped, "alive": True})
    await asked()
    runner.close()


async def portmap() -> None:
    """Towards a router that only sends what it should not."""
    guard = Guard(log)
    runner = PortMapRunner(bytes(32), lambda: None, guard)
    runner.look(ENGINE_PORT, wanted=True)
    assert runner._sockets is not None, "there is no default route to a router"
    runner._perform([Search(b"M-SEARCH * HTTP/1.1\r\n\r\n")])
    assert runner._sockets.search is not None
    assert runner._sockets.announcements is not None
    sockets = (runner._sockets.control, runner._sockets.search, runner._sockets.announcements)
    say([opened.getsockname()[1] for opened in sockets])
    await asked()
    before = runner.status()
    runner.check()
    say({"faults": guard.dropped, "alive": before is not None and runner._timer is not None})
    await asked()
    runner.close()


async def relay_by_tls() -> None:
    """The loopback addresses that stand in for peers: only the engine's port is heard."""
    guard = Guard(log)
    tunnel = RelayTls(lambda _, __: None, lambda _, __: None, guard)
    tunnel.engine(ENGINE_PORT)
    tunnel.stand_in(SocketAddress("127.77.0.1", 40001), True)
    say([40001])
    await asked()
    say({"faults": guard.dropped, "alive": 40001 in tunnel._peers})
    await asked()
    tunnel.close()


PROGRAMS: dict[str, Any] = {
    "relay": relay_server,
    "relay-client": relay_client,
    "stun": stun_server,
    "stun-client": stun_client,
    "paths": paths,
    "batches": batches,
    "portmap": portmap,
    "relay-by-tls": relay_by_tls,
}

if __name__ == "__main__":
    ended = PROGRAMS[sys.argv[1]](*sys.argv[2:])
    if asyncio.iscoroutine(ended):
        asyncio.run(ended)
