"""A relay on a machine of its own: the real table, which checks the grants of all mediators by the document alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mediator.core.relay_table import RelayTable
from netctl.model.addresses import SocketAddress
from netctl.model.keys import IdentityKey
from netctl.wire.relaysecret import agreed_secret
from netctl.wire.stun import MAX_LOAD
from tests.world.world_clock import Clock
from tests.world.world_mediator import EXPIRE_S, SimMediator, serve_datagram
from tests.world.world_net import Internet, Site

PORTS = range(40000, 41000)
"""As a document has them that says nothing."""


class SimRelay:
    """A relay's machine. Its bindings are gone when it loses its power; later it has another load."""

    def __init__(
        self,
        clock: Clock,
        net: Internet,
        host: str,
        mediators: Sequence[SimMediator],
        check: Callable[[RelayTable], None],
        load: int,
    ) -> None:
        """`check` is called from time to time, with who is bound. `load`: how loaded it says to be."""
        self.site = Site(host, nat=False, delay_s=net.chance.uniform(0.001, 0.03))
        self.address = SocketAddress(host, 8443)
        self.powered, self.load = True, load
        self._clock, self._net, self._check = clock, net, check
        self._private = Ed25519PrivateKey.from_private_bytes(net.chance.randbytes(32))
        self.identity = IdentityKey(self._private.public_key().public_bytes_raw())
        pins = dict.fromkeys(mediator.identity for mediator in mediators)
        self._secrets = [agreed_secret(self._private, pin, self.identity) for pin in pins]
        self.table = self._new()
        net.stations.append(self)
        self._expire()

    def _new(self) -> RelayTable:
        table = RelayTable(self._secrets[0], self._net.chance.randbytes(32), PORTS)
        table.trust(self._secrets)
        return table

    @property
    def entry(self) -> dict[str, Any]:
        """As the document has it."""
        return {"url": f"netctl://{self.address}", "identity": [str(self.identity)], "role": "relay"}

    def lose_power(self) -> None:
        """Nobody is told."""
        self._clock.say(f"the relay {self.address.host} is gone")
        self.powered = False

    def power_on(self) -> None:
        """Boot."""
        if not self.powered:
            self._clock.say(f"the relay {self.address.host} is back")
            self.powered, self.table, self.load = True, self._new(), (self.load + 1) % (MAX_LOAD + 1)

    def datagram(self, data: bytes, source: SocketAddress, port: int) -> None:
        """STUN, and what it relays."""
        serve_datagram(self, self._net, self.table, data, source, port, self._clock, self.load)

    def _expire(self) -> None:
        self._check(self.table)
        self.table.expire(self._clock.now)
        self._clock.after(EXPIRE_S, self._expire)
