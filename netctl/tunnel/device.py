"""The protocol core of a WireGuard interface: peers, handshakes, timers; no TUN and no socket. The package says how
to drive it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from netctl.model.addresses import SocketAddress
from netctl.model.errors import LocalError
from netctl.tunnel import constants, messages, noise
from netctl.tunnel.allowedips import AllowedIPs
from netctl.tunnel.cookie import CookieChecker, LoadState, SourceLimiter
from netctl.tunnel.effects import Effect, FlushStaged, SendDatagram, SendKeepalive
from netctl.tunnel.handshakepace import Pace
from netctl.tunnel.messages import CookieReply, Initiation, Response
from netctl.tunnel.peer import IndexTable, Keypair, Peer
from netctl.tunnel.primitives import KEY_LEN, dh, tai64n
from netctl.tunnel.timers import Timer, TimerQueue


class Device:
    """The protocol machine of one interface.

    `rng(n)` gives `n` bytes fit for keys. For a sender that is not a configured peer nothing is allocated, and
    nothing but a cookie reply is sent.
    """

    def __init__(self, private_key: bytes | None, rng: Callable[[int], bytes]) -> None:
        self._rng = rng
        self._peers: dict[bytes, Peer] = {}
        self._indices = IndexTable(rng)
        self._timers = TimerQueue[Peer]()
        self._pace = Pace()
        self._load = LoadState()
        self._limiter = SourceLimiter()
        self._replies = SourceLimiter(when_full=True)
        self._own: noise.StaticKeys | None = None
        self._checker: CookieChecker | None = None
        self.allowed_ips = AllowedIPs()
        self.changed: set[Peer] = set()
        """Peers whose endpoint or sending keypair has changed, or which were removed, since the shell emptied this
        set; a shell that looks them up for every batch need not use it.
        """
        self.new_keypair: Callable[..., Keypair] = Keypair
        """The factory of keypairs, called with the arguments of `Keypair`."""
        self.comes_back: Callable[[SocketAddress], bool] = lambda endpoint: False
        """Whether the system's routes send packets for an endpoint into this interface itself."""
        self.set_private_key(private_key)

    # Configuration

    @property
    def public_key(self) -> bytes | None:
        """Our public key, or None while there is no private key."""
        return self._own.public if self._own is not None else None

    @property
    def private_key(self) -> bytes | None:
        """A copy of our private key, for the configuration socket, which shows it; None while there is none."""
        return self._own.private.private_bytes_raw() if self._own is not None else None

    @property
    def peers(self) -> Mapping[bytes, Peer]:
        """By public key (32 bytes), in the order of addition. Read only."""
        return MappingProxyType(self._peers)

    def set_private_key(self, private_key: bytes | None) -> None:
        """Change our key: every session ends; a peer with our own key is removed, as the kernel does."""
        if private_key is not None and len(private_key) != KEY_LEN:
            raise ValueError("a private key is 32 bytes")
        own = noise.StaticKeys(private_key) if private_key is not None else None
        if own is not None and self._own is not None and own.public == self._own.public:
            return
        if self._checker is not None:
            self._checker.wipe()
        self._own = own
        self._checker = CookieChecker(own.public, self._rng) if own is not None else None
        if own is not None:
            self.remove_peer(own.public)
        for peer in self._peers.values():
            peer.wipe_sessions()
            peer.static_static = None

    def add_peer(self, public_key: bytes) -> Peer | None:
        """The peer with this key; it is created if it does not exist. None: the key is our own, which is no peer.

        Raises LocalError past MAX_PEERS.
        """
        if len(public_key) != KEY_LEN:
            raise ValueError("a public key is 32 bytes")
        if public_key == self.public_key:
            return None
        peer = self._peers.get(public_key)
        if peer is None:
            if len(self._peers) >= constants.MAX_PEERS:
                raise LocalError(f"a device has at most {constants.MAX_PEERS} peers: use a second interface")
            peer = self._peers[public_key] = Peer(public_key, self._indices, self._timers, self.changed)
            peer.takes = self.takes
        return peer

    def remove_peer(self, public_key: bytes) -> None:
        """Forget a peer: sessions, staged packets, allowed IPs. Nothing happens if there is none."""
        peer = self._peers.pop(public_key, None)
        if peer is None:
            return
        peer.wipe_sessions()
        peer.preshared_key = bytes(KEY_LEN)
        peer.staged.clear()
        self.allowed_ips.remove_peer(peer)
        self._timers.discard(peer.timers)

    def set_endpoint(self, peer: Peer, endpoint: SocketAddress, now: float) -> None:
        """Set where to send to; a handshake that waits for an endpoint starts. An endpoint that would make a loop is
        not used.
        """
        if not self.takes(endpoint):
            return
        had_none = peer.endpoint is None
        peer.endpoint = endpoint
        peer.endpoint_aside = None
        self.changed.add(peer)
        if had_none and (peer.staged or peer.keepalive_s) and peer.sendable_keypair(now) is None:
            peer.timers.cancel(Timer.RETRANSMIT)
            peer.want_handshake(now)

    def takes(self, endpoint: SocketAddress) -> bool:
        """Whether packets may be sent to an endpoint: not if they would enter this interface again and be sealed
        without end.

        A loop needs an allowed IP that covers the endpoint and a route into this interface (the kernel's ELOOP).
        """
        return self.allowed_ips.lookup(endpoint.address.packed) is None or not self.comes_back(endpoint)

    def leave_loops(self, peer: Peer) -> None:
        """Allowed IPs have changed: stop using an endpoint that would now make a loop."""
        if peer.endpoint is not None and not self.takes(peer.endpoint):
            peer.endpoint_aside, peer.endpoint = peer.endpoint, None
            self.changed.add(peer)

    def routes_changed(self, now: float) -> None:
        """Routes have changed: stop using endpoints that would now make a loop, and use again those that no longer
        would.
        """
        for peer in self._peers.values():
            self.leave_loops(peer)
            aside = peer.endpoint_aside
            if peer.endpoint is None and aside is not None and self.takes(aside):
                self.set_endpoint(peer, aside, now)

    def set_keepalive(self, peer: Peer, seconds: int, now: float) -> None:
        """Set the persistent keepalive, 0-65535 s, 0 is off. After it is switched on, the first one is due at once."""
        was_on = peer.keepalive_s > 0
        peer.keepalive_s = seconds
        if not seconds:
            peer.timers.cancel(Timer.PERSISTENT)
        elif not was_on:
            peer.timers.arm(Timer.PERSISTENT, now)

    def wipe_sessions(self) -> None:
        """Drop every session, staged packet and timer (the interface went down). Peers stay configured."""
        for peer in self._peers.values():
            peer.wipe_sessions()
            peer.staged.clear()
            peer.timers.clear()

    # The hot path's look-ups

    def keypair(self, index: int, now: float | None = None) -> Keypair | None:
        """The keypair of a received index. With `now`: only if it may still be used for receiving."""
        keypair = self._indices.keypairs.get(index)
        if (
            keypair is not None
            and now is not None
            and now - keypair.created_at >= constants.REJECT_AFTER_TIME
        ):
            return None
        return keypair

    def lookup(self, address: bytes) -> Peer | None:
        """The owner of a packed inner address (4 or 16 bytes): where to send, and the source check on receipt."""
        return self.allowed_ips.lookup(address)

    def stage(self, peer: Peer, packets: list[bytes], now: float) -> list[Effect]:
        """Queue packets that have no usable keypair, and start a handshake (through the timer)."""
        if self._peers.get(peer.public_key) is not peer:
            return []  # removed while the shell still held it
        peer.stage(packets)
        if peer.sendable_keypair(now) is not None:
            return [FlushStaged(peer)]
        peer.want_handshake(now)
        return []

    # Load

    def note_handshake_load(self, now: float) -> None:
        """The shell cannot keep up with handshake messages: ask for cookies for UNDER_LOAD_HOLD."""
        self._load.force(now)

    def is_under_load(self, now: float) -> bool:
        """Whether initiators are asked for cookies now."""
        return self._load.is_under_load(now)

    # Handshake messages

    def handle_handshake(
        self, datagram: bytes, source: SocketAddress, now: float, unix_now: float
    ) -> list[Effect]:
        """Take a datagram of type 1, 2 or 3. A bad one, or one of another type, changes nothing and gets no answer."""
        if self._own is None or self._checker is None:
            return []
        kind = messages.message_type(datagram)
        if kind == messages.COOKIE_REPLY:
            reply = CookieReply.decode(datagram)
            peer = self._indices.peer(reply.receiver)
            if peer is not None and peer.cookie.consume(reply, now):
                peer.rx_bytes += len(datagram)
            return []
        if kind == messages.RESPONSE:
            response = Response.decode(datagram)
            peer = self._indices.handshakes.get(response.receiver)
            if peer is None or (refusal := self._admit(datagram, source, now)) is None:
                return []
            return refusal or self._take_response(self._own, peer, response, source, now, unix_now)
        if kind == messages.INITIATION:
            if (refusal := self._admit(datagram, source, now)) is None:
                return []
            return refusal or self._take_initiation(
                self._own, Initiation.decode(datagram), source, now, unix_now
            )
        return []

    def _admit(self, datagram: bytes, source: SocketAddress, now: float) -> list[Effect] | None:
        """Whether to spend Diffie-Hellman operations on a message. []: yes; a cookie reply: not yet; None: no."""
        assert self._checker is not None
        if not self._checker.has_valid_mac1(datagram):
            return None
        self._load.count(now)
        if not self._load.is_under_load(now):
            return []
        if self._checker.has_valid_mac2(datagram, source, now):
            return [] if self._limiter.allow(source, now) else None
        if not self._replies.allow(source, now):
            # the sender has had its cookie replies, and each costs us more than its message costs the sender
            return None
        return [SendDatagram(None, source, self._checker.reply(datagram, source, now))]

    def _take_initiation(
        self, own: noise.StaticKeys, message: Initiation, source: SocketAddress, now: float, unix_now: float
    ) -> list[Effect]:
        opened = noise.open_initiation(own, message)
        peer = self._peers.get(opened.remote_static) if opened is not None else None
        if opened is None or peer is None or (static_static := self._static_static(own, peer)) is None:
            return []
        proved = noise.prove_initiation(opened, static_static)
        if proved is None:
            return []
        timestamp, handshake = proved
        is_flood = now - peer.last_initiation_taken < 1.0 / constants.INITIATIONS_PER_SECOND
        if timestamp <= peer.latest_timestamp or is_flood:
            handshake.wipe()
            if timestamp < peer.latest_timestamp and peer.endpoint is not None:
                # A copy of an old message, or a peer that has booted with a clock behind: we can call it, but must
                # refuse its own initiations while its clock is behind.
                peer.want_handshake(now)
            return []
        index = self._indices.fresh()
        answered = noise.create_response(
            handshake, peer.public_key, peer.preshared_key, self._ephemeral(), index
        )
        handshake.wipe()
        if answered is None:
            return []
        response, keys = answered
        peer.latest_timestamp, peer.last_initiation_taken = timestamp, now
        peer.rx_bytes += messages.INITIATION_LEN
        peer.roam(source)
        peer.authenticated_received(now)
        keypair = self.new_keypair(peer, index, message.sender, keys.send, keys.receive, False, now, unix_now)
        peer.begin_session(keypair, now)
        return self._send(peer, response.encode(), now)

    def _take_response(
        self,
        own: noise.StaticKeys,
        peer: Peer,
        message: Response,
        source: SocketAddress,
        now: float,
        unix_now: float,
    ) -> list[Effect]:
        handshake = peer.handshake
        if handshake is None:
            return []
        keys = noise.consume_response(own, handshake, peer.preshared_key, message)
        if keys is None:
            return []
        index = handshake.local_index
        peer.set_handshake(None)
        peer.rx_bytes += messages.RESPONSE_LEN
        peer.roam(source)
        peer.authenticated_received(now)
        keypair = self.new_keypair(peer, index, message.sender, keys.send, keys.receive, True, now, unix_now)
        peer.begin_session(keypair, now)
        peer.handshake_complete(unix_now)
        # The responder may send nothing before it has heard from us (§5.4.3), so send something.
        return [FlushStaged(peer) if peer.staged else SendKeepalive(peer)]

    # Timers

    def next_timer(self) -> float | None:
        """When `handle_timer` is due; None: not before another event."""
        return self._timers.next()

    def handle_timer(self, now: float, unix_now: float) -> list[Effect]:
        """Fire due timers of a bounded number of peers: look at `next_timer` again afterwards."""
        effects: list[Effect] = []
        for _ in range(constants.MAX_PEERS_PER_TURN):
            timers = self._timers.pop(now)
            if timers is None:
                break
            for timer in timers.take_due(now):
                effects += self._fire(timers.owner, timer, now, unix_now)
            timers.rest()
        return effects

    def _fire(self, peer: Peer, timer: Timer, now: float, unix_now: float) -> list[Effect]:
        """One row of the table in `netctl.tunnel.timers`."""
        match timer:
            case Timer.INITIATE:
                return self._initiate(peer, now, unix_now)
            case Timer.RETRANSMIT:
                return self._retry(peer, now, unix_now)
            case Timer.NEW_HANDSHAKE:
                peer.want_handshake(now)
                return []
            case Timer.KEEPALIVE:
                peer.keepalive_due(now)
                return self._keepalive(peer, now)
            case Timer.PERSISTENT:
                if peer.keepalive_s and peer.endpoint is not None:
                    peer.timers.arm(Timer.PERSISTENT, now + peer.keepalive_s)
                return self._keepalive(peer, now)
            case Timer.ZERO_KEYS:
                peer.wipe_sessions()
                return []
            case Timer.FLUSH:
                return [FlushStaged(peer)] if peer.staged else []

    def _keepalive(self, peer: Peer, now: float) -> list[Effect]:
        if peer.sendable_keypair(now) is not None:
            return [SendKeepalive(peer)]
        if peer.endpoint is not None:
            peer.want_handshake(now)
        return []

    def _retry(self, peer: Peer, now: float, unix_now: float) -> list[Effect]:
        if peer.handshake_attempts > constants.MAX_HANDSHAKE_RETRIES:
            peer.timers.cancel(Timer.KEEPALIVE)
            peer.staged.clear()
            peer.timers.arm_if_idle(Timer.ZERO_KEYS, now + constants.ZERO_KEYS_AFTER)
            return []
        peer.handshake_attempts += 1
        return self._initiate(peer, now, unix_now)

    def _initiate(self, peer: Peer, now: float, unix_now: float) -> list[Effect]:
        if self._own is None or (static_static := self._static_static(self._own, peer)) is None:
            return []
        if peer.endpoint is None:
            # Wait as long as a handshake would be tried: `set_endpoint` starts it, else the staged packets are
            # dropped.
            peer.handshake_attempts = constants.MAX_HANDSHAKE_RETRIES + 1
            peer.timers.arm(Timer.RETRANSMIT, now + constants.REKEY_ATTEMPT_TIME)
            return []
        if self._is_in_line(peer, now):
            return []
        timestamp = tai64n(unix_now, peer.last_sent_timestamp)
        created = noise.create_initiation(
            self._own, peer.public_key, static_static, self._ephemeral(), timestamp, self._indices.fresh()
        )
        if created is None:
            return []
        message, handshake = created
        peer.last_sent_timestamp = timestamp
        peer.set_handshake(handshake)
        jitter = constants.REKEY_TIMEOUT_JITTER * int.from_bytes(self._rng(2), "little") / 0x10000
        peer.timers.cancel(Timer.INITIATE)
        peer.timers.arm(Timer.RETRANSMIT, now + constants.REKEY_TIMEOUT + jitter)
        return self._send(peer, message.encode(), now)

    def _is_in_line(self, peer: Peer, now: float) -> bool:
        """Whether an initiation must wait: no packet needs it, and many peers want one. INITIATE is armed then."""
        if peer.staged or peer.has_place:
            peer.has_place = False
            return False
        at = self._pace.place(now)
        if at <= now:
            return False
        peer.has_place = True
        peer.timers.arm(Timer.INITIATE, at)
        return True

    # Helpers

    def _send(self, peer: Peer, message: bytes, now: float) -> list[Effect]:
        datagram = peer.cookie.add_macs(message, now)
        peer.last_sent_handshake = now
        peer.authenticated_sent(now)
        if peer.endpoint is None:
            return []
        peer.tx_bytes += len(datagram)
        return [SendDatagram(peer, peer.endpoint, datagram)]

    def _ephemeral(self) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(self._rng(KEY_LEN))

    @staticmethod
    def _static_static(own: noise.StaticKeys, peer: Peer) -> bytes | None:
        if peer.static_static is None:
            peer.static_static = dh(own.private, peer.public_key)
        return peer.static_static
