"""Asks a router for a port mapping by PCP (RFC 6887) or NAT-PMP (RFC 6886), with one datagram and one answer."""

from __future__ import annotations

import hashlib

from netctl.model.addresses import SocketAddress
from netctl.model.errors import RemoteError
from netctl.paths.candidates import usable
from netctl.paths.mapping import ASK_WAITS, LEASE_S, Asker, Gateway, Granted, PortEffect, Refused, ToRouter
from netctl.wire import natpmp, pcp

NO_ADDRESS = "it names no address that others could reach"


class Epoch:
    """The router's clock: if it went back or deviates from ours, the router has lost its mappings (RFC 6887 §8.5)."""

    def __init__(self) -> None:
        self._seen: tuple[int, float] | None = None

    def lost(self, epoch_s: int, now: float) -> bool:
        """Record a reading; returns whether it shows that the mappings are lost."""
        before, self._seen = self._seen, (epoch_s, now)
        if before is None:
            return False
        server, client = epoch_s - before[0], now - before[1]
        return server < -1 or client + 2 < server - server / 16 or server + 2 < client - client / 16


class _DatagramAsker(Asker):
    """Repeats its requests after `ASK_WAITS`, then gives up."""

    def __init__(self, gateway: Gateway, port: int) -> None:
        super().__init__(gateway, port)
        self._suggested = port
        self._tries = 0
        self._epoch = Epoch()

    def begin(self, suggested_port: int, now: float) -> list[PortEffect]:
        """Ask, for the first time or anew."""
        self.outcome = None
        self._suggested = suggested_port
        self._tries = 0
        self._start()
        return self.handle_timer(now)

    def handle_timer(self, now: float) -> list[PortEffect]:
        """Ask (again), or give up."""
        if self.outcome is not None or (self._tries and self._due is not None and now < self._due):
            return []
        if self._tries >= len(ASK_WAITS):
            self.outcome = Refused("no answer", silent=True)
            return []
        self._due = now + ASK_WAITS[self._tries]
        self._tries += 1
        return self._questions()

    def handle_unreachable(self) -> None:
        """The router's port is closed: end without further waiting."""
        if self.outcome is None:
            self.outcome = Refused("nobody listens on its port 5351", silent=True)

    def _start(self) -> None:
        """Forget partial answers."""

    def _questions(self) -> list[PortEffect]:
        raise NotImplementedError

    def _grant(self, external: SocketAddress, lifetime_s: int) -> None:
        if lifetime_s <= 0:
            self.outcome = Refused(NO_TIME)
        elif external.is_ipv6 or not usable(external):
            self.outcome = Refused(NO_ADDRESS)
        else:
            self.outcome = Granted(external, lifetime_s)


NO_TIME = "it grants no time"
NO_PORT = "it grants port 0, which is none"


class PcpAsker(_DatagramAsker):
    """PCP. The nonce stays the same after restarts: a router lets only its owner renew a mapping (§11.3)."""

    name = "PCP"

    def __init__(self, gateway: Gateway, port: int, secret: bytes) -> None:
        super().__init__(gateway, port)
        what = gateway.router.packed + gateway.own.packed + port.to_bytes(2, "big")
        digest = hashlib.blake2s(what, key=secret, person=b"nctl-pcp", digest_size=pcp.NONCE_LEN)
        self._nonce = digest.digest()
        self._external: SocketAddress | None = None

    def _questions(self) -> list[PortEffect]:
        suggested = self._external or SocketAddress("0.0.0.0", self._suggested)  # noqa: S104
        return [ToRouter(pcp.map_request(self.gateway.own, self._nonce, self.port, suggested, LEASE_S))]

    def remove(self) -> list[PortEffect]:
        """Remove the mapping, with lifetime 0 (§15.1)."""
        return [ToRouter(pcp.map_request(self.gateway.own, self._nonce, self.port, None, 0))]

    def handle_router(self, data: bytes, now: float) -> bool:
        """Take an answer with our nonce and port; a refusal in another version may come without them."""
        try:
            if data[:1] == b"\0":
                answer = natpmp.decode(data)
                if answer == natpmp.Refusal(natpmp.UNSUPPORTED_VERSION) and self.outcome is None:
                    self.outcome = Refused("it does not speak it")
                return isinstance(answer, natpmp.ExternalAddress) and self._epoch.lost(answer.epoch_s, now)
            said = pcp.decode(data)
        except RemoteError:
            return False
        if isinstance(said, pcp.Announcement):
            return self._epoch.lost(said.epoch_s, now)
        ours = said.nonce == self._nonce and said.internal_port == self.port
        if not ours and not (said.result == pcp.UNSUPPORTED_VERSION and not said.nonce):
            return False
        if self.outcome is not None:
            return False
        if said.result:
            self.outcome = Refused(pcp.RESULTS.get(said.result, f"result {said.result}"))
            return False
        self._epoch.lost(said.epoch_s, now)  # this answer is the mapping, so no other can be lost
        if said.external is not None:
            self._external = said.external
            self._grant(said.external, said.lifetime_s)
        else:
            self.outcome = Refused(NO_PORT if said.lifetime_s else NO_TIME)
        return False


class NatPmpAsker(_DatagramAsker):
    """NAT-PMP: external address and port are two requests, sent together."""

    name = "NAT-PMP"

    def __init__(self, gateway: Gateway, port: int) -> None:
        super().__init__(gateway, port)
        self._address: str | None = None
        self._mapped: natpmp.Mapped | None = None

    def _start(self) -> None:
        self._address = self._mapped = None

    def _questions(self) -> list[PortEffect]:
        questions: list[PortEffect] = []
        if self._address is None:
            questions.append(ToRouter(natpmp.address_request()))
        if self._mapped is None:
            questions.append(ToRouter(natpmp.map_request(self.port, self._suggested, LEASE_S)))
        return questions

    def remove(self) -> list[PortEffect]:
        """Remove the mapping, with lifetime 0 (§3.4)."""
        return [ToRouter(natpmp.map_request(self.port, 0, 0))]

    def handle_router(self, data: bytes, now: float) -> bool:
        """Take an answer: both together are a mapping; an unrequested address is an announcement (§3.2.1)."""
        try:
            answer = natpmp.decode(data)
        except RemoteError:
            return False
        if isinstance(answer, natpmp.Refusal):
            if self.outcome is None:
                self.outcome = Refused(natpmp.RESULTS.get(answer.result, f"result {answer.result}"))
            return False
        if isinstance(answer, natpmp.ExternalAddress):
            if self.outcome is not None:
                return self._epoch.lost(answer.epoch_s, now)
            self._address = str(answer.address)
        elif answer.internal_port == self.port:
            if answer.lifetime_s and answer.external_port:
                self._mapped = answer
            elif self.outcome is None:
                self.outcome = Refused(NO_PORT if answer.lifetime_s else NO_TIME)
        self._epoch.lost(answer.epoch_s, now)
        if self.outcome is None and self._address is not None and self._mapped is not None:
            self._grant(SocketAddress(self._address, self._mapped.external_port), self._mapped.lifetime_s)
        return False
