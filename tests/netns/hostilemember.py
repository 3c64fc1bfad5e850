"""A member that means harm, for `test_hostile_member_real`: it has its keys and speaks the protocol, and obeys nothing.

Run as `python hostilemember.py PEER ENGINE`, where the agent of a lab's host was. It logs in, answers pings on the
engine's port as an honest one would, prints `ready`, and performs one JSON line of its standard input after the
other, each answered with one line.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

from netctl.agent.mediators.controlclient import ControlClient
from netctl.agent.storage.keyfiles import load_keys
from netctl.agent.storage.locations import Locations
from netctl.config import load_document
from netctl.engine.port.sharedport import open_shared_port
from netctl.model.addresses import SocketAddress
from netctl.model.errors import RemoteError
from netctl.model.hoststate import WIREGUARD_LINK
from netctl.model.keys import WireGuardKey
from netctl.session.client import Effect, LoggedIn, PathMessage
from netctl.wire import probe
from netctl.wire.control import Candidate, Candidates, Introduction

UDP_HEADER = 8
PORT = 51820
FIRST_ROUND = 2**30
"""Above any that honest ones have come to: the highest round wins."""
PATIENCE_S = 240.0


class Hostile:
    """The member."""

    def __init__(self, peer: str, engine: str) -> None:
        locations = Locations.find()
        self.keys = load_keys(locations)
        self.peer = WireGuardKey.parse(peer)
        private = self.keys.wireguard_private.private_bytes_raw()
        self.probes = probe.derive_keys(private, self.keys.wireguard, self.peer)
        self.document = load_document(Path(os.environ["NETCTL_CONFIG"]).read_text()).document
        self.client = ControlClient(self.keys, self.hear, lambda state: None)
        self.client.set_mediators(self.document.mediators)
        self.round = FIRST_ROUND
        self.logged_in = asyncio.Event()
        self.port = open_shared_port(engine, WIREGUARD_LINK, PORT)

    def hear(self, effect: Effect) -> None:
        if isinstance(effect, PathMessage) and isinstance(effect.message, Introduction):
            self.round = max(self.round, effect.message.round)
        elif isinstance(effect, LoggedIn):
            self.logged_in.set()

    def offer(self, candidates: list[str], times: int, every_s: float) -> Any:
        """Round after round, as fast as is said."""
        return self._offers([Candidate("srflx", address) for address in candidates], times, every_s)

    async def _offers(self, candidates: list[Candidate], times: int, every_s: float) -> int:
        for _ in range(times):
            self.round += 1
            self.client.send(Candidates(str(self.peer), self.round, candidates))
            await asyncio.sleep(every_s)
        return self.round

    def make(self, count: int) -> list[str]:
        """Pings of now."""
        return [self._ping().hex() for _ in range(count)]

    def _ping(self) -> bytes:
        time.sleep(0.000_002)  # numbers are microseconds
        flags = probe.ProbeFlag.HAVE_PONG | probe.ProbeFlag.USING
        ping = probe.Probe(probe.ProbeType.PING, os.urandom(8), flags, number=int(time.time() * 1e6))
        return probe.seal(self.probes, ping, os.urandom(probe.NONCE_LEN))

    def forge(self, datagrams: list[str], sources: list[str], to: str) -> int:
        """Each from another source than ours, in turn."""
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            for index, data in enumerate(datagrams):
                source = SocketAddress.parse(sources[index % len(sources)])
                raw.sendto(
                    udp(source, SocketAddress.parse(to), bytes.fromhex(data)), (to.partition(":")[0], 0)
                )
        return len(datagrams)

    def serve(self, host: str, port: int, to: str) -> str:
        """Ping from this address, and answer all pings there, as long as we live."""
        opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        opened.bind((host, port))
        opened.setblocking(False)
        target = SocketAddress.parse(to)
        opened.sendto(self._ping(), (target.host, target.port))
        asyncio.get_running_loop().add_reader(opened.fileno(), self._answer, opened)
        return "served"

    def _answer(self, opened: socket.socket) -> None:
        data, source = opened.recvfrom(2000)
        for answer in self._answers(data, SocketAddress.of(*source[:2])):
            opened.sendto(answer, source)

    def _answer_shared(self) -> None:
        for data, source in self.port.receive():
            for answer in self._answers(data, source):
                self.port.send(source, answer)

    def _answers(self, data: bytes, source: SocketAddress) -> list[bytes]:
        """To a ping: the pong, and a ping of ours that asks to follow."""
        try:
            asked = probe.open_probe(self.probes, data)
        except RemoteError:
            return []
        if asked.kind is probe.ProbeType.PONG:
            return []
        flags = probe.ProbeFlag.HAVE_PONG | probe.ProbeFlag.USING
        pong = probe.Probe(probe.ProbeType.PONG, asked.transaction, flags, source)
        return [probe.seal(self.probes, pong, os.urandom(probe.NONCE_LEN)), self._ping()]

    async def run(self) -> None:
        asyncio.get_running_loop().add_reader(self.port.fileno(), self._answer_shared)
        link = asyncio.create_task(self.client.run())
        async with asyncio.timeout(PATIENCE_S):
            await self.logged_in.wait()
        print("ready", flush=True)
        while line := await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
            asked = json.loads(line)
            done = getattr(self, asked.pop("do"))(**asked)
            print(json.dumps(await done if asyncio.iscoroutine(done) else done), flush=True)
        link.cancel()


def udp(source: SocketAddress, destination: SocketAddress, data: bytes) -> bytes:
    """An IPv4 packet without checksums of UDP, which IPv4 allows; the kernel fills in those of IP."""
    length = UDP_HEADER + len(data)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0, 64, socket.IPPROTO_UDP, 0)
    header += source.address.packed + destination.address.packed
    return header + struct.pack("!HHHH", source.port, destination.port, length, 0) + data


if __name__ == "__main__":
    asyncio.run(Hostile(*sys.argv[1:]).run())
