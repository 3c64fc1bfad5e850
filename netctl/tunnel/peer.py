"""One peer and its sessions: keys, the indices that find them (paper §5.4), timers, staged packets.

Slots (`previous`, `current`, `next`; §6.2 and the reference implementations):

    event                            previous       current     next      and then
    we are answered (initiator)      next or else   the new     empty     the handshake is complete
                                     current
    we answer (responder)            empty          as it was   the new   nothing is sent with it until
                                                                          the peer has used it
    first packet under `next`        current        next        empty     the handshake is complete
    ZERO_KEYS, or a new private key  empty          empty       empty     an initiation under way is dropped

Both sides may initiate at once. Our own initiation is kept while the peer's is answered, so whichever response
arrives makes a session, and both may: data is received under all three slots.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from netctl.model.addresses import SocketAddress
from netctl.tunnel import constants
from netctl.tunnel.constants import REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME
from netctl.tunnel.cookie import CookieGenerator
from netctl.tunnel.noise import Handshake
from netctl.tunnel.primitives import KEY_LEN
from netctl.tunnel.replay import ReplayWindow
from netctl.tunnel.timers import PeerTimers, Timer, TimerQueue

_LONG_AGO = float("-inf")


def _anywhere(_: SocketAddress) -> bool:
    return True


class Keypair:
    """The keys of one session, made by `Device`; found by `Device.keypair(local_index)`.

    `send` and `receive` are freed when the keypair dies: `is_alive` is False from then on, and the device no
    longer finds it.
    """

    __slots__ = (
        "created_at",
        "created_unix",
        "is_alive",
        "is_initiator",
        "local_index",
        "peer",
        "receive",
        "remote_index",
        "replay",
        "send",
        "send_counter",
    )

    def __init__(
        self,
        peer: Peer,
        local_index: int,
        remote_index: int,
        send_key: bytes,
        receive_key: bytes,
        is_initiator: bool,
        now: float,
        unix_now: float,
    ) -> None:
        self.peer = peer
        self.local_index = local_index
        """Our index: the receiver index of what the peer sends."""
        self.remote_index = remote_index
        """The peer's index: the receiver index of what we send."""
        self.is_initiator = is_initiator
        """Whether we sent the initiation: only the initiator renews the session by its age (§6.2)."""
        self.created_at = now
        self.created_unix = unix_now
        self.send_counter = 0
        """The next counter to send with."""
        self.replay = ReplayWindow()
        self.is_alive = True
        self.take_keys(send_key, receive_key)

    def take_keys(self, send_key: bytes, receive_key: bytes) -> None:
        """Set up the ciphers; a keypair whose packets are sealed elsewhere does not."""
        self.send = ChaCha20Poly1305(send_key)
        self.receive = ChaCha20Poly1305(receive_key)

    def reserve(self, n: int, now: float) -> int | None:
        """The first of `n` consecutive counters, now taken; None when the keypair may no longer send."""
        first = self.send_counter
        if not self.is_usable(now) or first + n > REJECT_AFTER_MESSAGES:
            return None
        self.send_counter = first + n
        return first

    def is_usable(self, now: float) -> bool:
        """Whether it may still send and receive: younger than REJECT_AFTER_TIME, counters left, not wiped."""
        return (
            self.is_alive
            and now - self.created_at < REJECT_AFTER_TIME
            and self.send_counter < REJECT_AFTER_MESSAGES
        )

    def wipe(self) -> None:
        """Free the keys (OpenSSL clears its contexts) and refuse all further use."""
        if self.is_alive:
            self.is_alive = False
            del self.send, self.receive


class IndexTable:
    """Maps our indices to peers. Only configured peers ever have one."""

    def __init__(self, rng: Callable[[int], bytes]) -> None:
        self._rng = rng
        self.keypairs: dict[int, Keypair] = {}
        self.handshakes: dict[int, Peer] = {}
        """Peers with an initiation of ours under way."""

    def fresh(self) -> int:
        """A random index that is not in use."""
        while True:
            index = int.from_bytes(self._rng(4), "little")
            if index not in self.keypairs and index not in self.handshakes:
                return index

    def peer(self, index: int) -> Peer | None:
        """The peer that an index belongs to, as a session or a handshake."""
        keypair = self.keypairs.get(index)
        return keypair.peer if keypair is not None else self.handshakes.get(index)


class Peer:
    """A configured peer, made by `Device.add_peer`. Shells add data bytes to `rx_bytes` and `tx_bytes`."""

    __slots__ = (
        "_changed",
        "_indices",
        "_is_renewing_on_receipt",
        "_preshared_key",
        "_wants_another_keepalive",
        "cookie",
        "current",
        "endpoint",
        "endpoint_aside",
        "endpoint_fixed",
        "handshake",
        "handshake_attempts",
        "has_place",
        "keepalive_s",
        "last_handshake",
        "last_initiation_taken",
        "last_sent_handshake",
        "last_sent_timestamp",
        "latest_timestamp",
        "next",
        "previous",
        "public_key",
        "rx_bytes",
        "staged",
        "static_static",
        "takes",
        "timers",
        "tx_bytes",
    )

    def __init__(
        self,
        public_key: bytes,
        indices: IndexTable,
        queue: TimerQueue[Peer],
        changed: set[Peer] | None = None,
    ) -> None:
        self.public_key = public_key
        self._changed: set[Peer] = changed if changed is not None else set()
        self._preshared_key = bytearray(KEY_LEN)
        self._indices = indices
        self.timers = PeerTimers(self, queue)
        self.cookie = CookieGenerator(public_key)
        self.endpoint: SocketAddress | None = None
        self.endpoint_aside: SocketAddress | None = None
        """An endpoint that is not used because routes lead from it back into our own interface."""
        self.takes: Callable[[SocketAddress], bool] = _anywhere
        """Whether an endpoint may be used; asked when the endpoint would change, never for each packet."""
        self.endpoint_fixed = False
        """Whether the endpoint is fixed: authentic packets from elsewhere do not move it."""
        self.keepalive_s = 0
        """Persistent keepalive interval in seconds, 0 is off; set it with `Device.set_keepalive`."""
        self.rx_bytes = 0
        self.tx_bytes = 0
        self.last_handshake = 0.0
        """Unix time of the last completed handshake, 0: never."""
        self.previous: Keypair | None = None
        self.current: Keypair | None = None
        self.next: Keypair | None = None
        self.staged: deque[bytes] = deque()
        """IP packets that wait for a session, oldest first, bounded by `stage`."""
        self.handshake: Handshake | None = None
        """Our initiation under way."""
        self.handshake_attempts = 0
        self.has_place = False
        """INITIATE is armed for its place in the device's line of unprompted handshakes."""
        self.static_static: bytes | None = None
        """DH of both static keys, computed at first use."""
        self.last_sent_handshake = _LONG_AGO
        self.last_sent_timestamp = b""
        self.latest_timestamp = b""
        """The greatest TAI64N accepted from this peer: an initiation must exceed it (§5.1)."""
        self.last_initiation_taken = _LONG_AGO
        self._wants_another_keepalive = False
        self._is_renewing_on_receipt = False

    @property
    def preshared_key(self) -> bytes:
        """32 bytes; all zero means none (§5.4.3)."""
        return bytes(self._preshared_key)

    @preshared_key.setter
    def preshared_key(self, key: bytes) -> None:
        if len(key) != KEY_LEN:
            raise ValueError("a preshared key is 32 bytes")
        self._preshared_key[:] = key

    # The hot path's hooks: called for each batch, not for each packet.

    def sendable_keypair(self, now: float) -> Keypair | None:
        """The keypair to seal with. None: stage the packets (`Device.stage`)."""
        keypair = self.current
        return keypair if keypair is not None and keypair.is_usable(now) else None

    def data_sent(self, now: float, keypair: Keypair, is_keepalive: bool = False) -> None:
        """Transport packets were sent under `keypair`; `is_keepalive`: all of them were empty."""
        if not keypair.is_alive:
            return
        self.authenticated_sent(now)
        if not is_keepalive:
            self.timers.arm_if_idle(Timer.NEW_HANDSHAKE, now + constants.NEW_HANDSHAKE_AFTER)
        if keypair.send_counter > constants.REKEY_AFTER_MESSAGES or (
            keypair.is_initiator and now - keypair.created_at >= constants.REKEY_AFTER_TIME
        ):
            self.want_handshake(now)

    def data_received(
        self, keypair: Keypair, source: SocketAddress, now: float, is_keepalive: bool = False
    ) -> None:
        """Transport packets were opened under `keypair` and accepted by its replay window.

        Roams the endpoint to `source` (of the last of them), confirms `next`. `is_keepalive`: all were empty.
        """
        if not keypair.is_alive:
            return
        if keypair is self.next:
            self._drop(self.previous)
            self.previous, self.current, self.next = self.current, keypair, None
            self._changed.add(self)
            self.handshake_complete(keypair.created_unix + now - keypair.created_at)
            if self.staged:
                self.timers.arm(Timer.FLUSH, now)
        self.roam(source)
        self.authenticated_received(now)
        if not is_keepalive and not self.timers.arm_if_idle(
            Timer.KEEPALIVE, now + constants.KEEPALIVE_TIMEOUT
        ):
            self._wants_another_keepalive = True
        if (
            keypair is self.current
            and keypair.is_initiator
            and not self._is_renewing_on_receipt
            and now - keypair.created_at >= constants.REKEY_AFTER_TIME_RECEIVING
        ):
            self._is_renewing_on_receipt = True
            self.want_handshake(now)

    def take_staged(self) -> list[bytes]:
        """All staged packets, oldest first; none are staged afterwards."""
        packets = list(self.staged)
        self.staged.clear()
        return packets

    # What follows is the device's side.

    def stage(self, packets: Iterable[bytes]) -> None:
        """Queue packets, dropping the oldest past MAX_STAGED_PACKETS or MAX_STAGED_BYTES."""
        self.staged.extend(packets)
        size = sum(map(len, self.staged))
        while len(self.staged) > constants.MAX_STAGED_PACKETS or size > constants.MAX_STAGED_BYTES:
            size -= len(self.staged.popleft())

    def want_handshake(self, now: float) -> None:
        """Have an initiation sent: at once, or REKEY_TIMEOUT after the last message."""
        self.handshake_attempts = 0
        if not self.timers.is_armed(Timer.RETRANSMIT):
            at = max(now, self.last_sent_handshake + constants.REKEY_TIMEOUT)
            armed = self.timers.deadline(Timer.INITIATE)
            if armed is None or (self.staged and at < armed):  # packets do not wait for a place in line
                self.timers.arm(Timer.INITIATE, at)

    def roam(self, source: SocketAddress) -> None:
        """An authentic message came from `source`: move the endpoint there."""
        if self.endpoint == source or (self.endpoint is not None and self.endpoint_fixed):
            return
        if self.takes(source):
            self.endpoint = source
            self.endpoint_aside = None
            self._changed.add(self)

    def authenticated_sent(self, now: float) -> None:
        """An authentic message was sent."""
        self.timers.cancel(Timer.KEEPALIVE)
        self._wants_another_keepalive = False
        self._traversed(now)

    def authenticated_received(self, now: float) -> None:
        """An authentic message was received."""
        self.timers.cancel(Timer.NEW_HANDSHAKE)
        self._traversed(now)

    def keepalive_due(self, now: float) -> None:
        """KEEPALIVE has fired; if more data came since it was armed, arm it again."""
        if self._wants_another_keepalive:
            self._wants_another_keepalive = False
            self.timers.arm(Timer.KEEPALIVE, now + constants.KEEPALIVE_TIMEOUT)

    def begin_session(self, keypair: Keypair, now: float) -> None:
        """Put a new keypair into its slot. See the table above."""
        if keypair.is_initiator:
            if self.next is not None:
                self._drop(self.previous)
                self._drop(self.current)
                self.previous, self.next = self.next, None
            else:
                self._drop(self.previous)
                self.previous = self.current
            self.current = keypair
        else:
            self._drop(self.next)
            self._drop(self.previous)
            self.next, self.previous = keypair, None
        self._indices.keypairs[keypair.local_index] = keypair
        self._changed.add(self)
        self.timers.arm(Timer.ZERO_KEYS, now + constants.ZERO_KEYS_AFTER)

    def handshake_complete(self, unix_now: float) -> None:
        """Both sides are known to have the keys."""
        self.has_place = False
        self.timers.cancel(Timer.RETRANSMIT)
        self.timers.cancel(Timer.INITIATE)
        self.handshake_attempts = 0
        self._is_renewing_on_receipt = False
        self.last_handshake = unix_now

    def set_handshake(self, handshake: Handshake | None) -> None:
        """Replace the initiation under way, and free its index."""
        if self.handshake is not None:
            self._indices.handshakes.pop(self.handshake.local_index, None)
            self.handshake.wipe()
        self.handshake = handshake
        if handshake is not None:
            self._indices.handshakes[handshake.local_index] = self

    def wipe_sessions(self) -> None:
        """Drop every key that came from a handshake."""
        self.set_handshake(None)
        for keypair in (self.previous, self.current, self.next):
            self._drop(keypair)
        self.previous = self.current = self.next = None
        self._changed.add(self)

    def _traversed(self, now: float) -> None:
        if self.keepalive_s:
            self.timers.arm(Timer.PERSISTENT, now + self.keepalive_s)

    def _drop(self, keypair: Keypair | None) -> None:
        if keypair is not None:
            self._indices.keypairs.pop(keypair.local_index, None)
            keypair.wipe()
