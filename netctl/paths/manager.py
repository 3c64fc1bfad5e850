"""The path manager: for every peer the best path that works, sans-IO. Signatures first, the body follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from netctl.model.addresses import SocketAddress
from netctl.model.hoststate import PeerStatus
from netctl.model.keys import WireGuardKey
from netctl.paths.effects import Effect, PathStatus
from netctl.wire.control import Candidate, Introduction, Punch, RelayGrant


class PathManager:
    """Keeps one pair machine per peer. `now` is monotonic seconds; every method returns effects, in order."""

    def __init__(self, own_key: WireGuardKey, private_key: bytes, rng: Callable[[int], bytes]) -> None:
        raise NotImplementedError

    def set_peers(self, keys: Iterable[WireGuardKey], now: float) -> list[Effect]:
        """The peers to have paths to: new ones start (relay first), missing ones are forgotten."""
        raise NotImplementedError

    def set_local(self, candidates: list[Candidate], now: float) -> list[Effect]:
        """This host's own addresses (kinds host, mapped, explicit); a change starts new rounds."""
        raise NotImplementedError

    def set_stun(self, servers: list[SocketAddress], now: float) -> list[Effect]:
        """The mediator's STUN addresses (`Welcome.stun`)."""
        raise NotImplementedError

    def control_up(self, now: float) -> list[Effect]:
        """Logged in."""
        raise NotImplementedError

    def control_down(self, now: float) -> list[Effect]:
        """The mediator is gone: everything goes on."""
        raise NotImplementedError

    def handle_datagram(self, data: bytes, source: SocketAddress, now: float) -> list[Effect]:
        """A datagram that is no WireGuard message arrived on the shared port."""
        raise NotImplementedError

    def handle_message(self, message: Introduction | Punch | RelayGrant, now: float) -> list[Effect]:
        """A message about paths came over the control connection."""
        raise NotImplementedError

    def peer_online(self, key: WireGuardKey, online: bool, now: float) -> list[Effect]:
        """The mediator says that a peer came or went; going is a reason to check, not to tear down."""
        raise NotImplementedError

    def observe(self, key: WireGuardKey, status: PeerStatus, now: float) -> list[Effect]:
        """What the engine sees of a peer; to be called for every peer about once a second."""
        raise NotImplementedError

    def handle_timer(self, now: float) -> list[Effect]:
        """Call when `next_timer()` is due; too early or late does no harm."""
        raise NotImplementedError

    def next_timer(self) -> float | None:
        """When `handle_timer` wants to be called, None: never."""
        raise NotImplementedError

    def status(self) -> Mapping[WireGuardKey, PathStatus]:
        """Every peer's path just now."""
        raise NotImplementedError
