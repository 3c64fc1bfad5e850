"""One session's pair of transport keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from netctl.tunnel.constants import REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME
from netctl.tunnel.replay import ReplayWindow

if TYPE_CHECKING:
    from netctl.tunnel.peer import Peer


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
        """Ours: the receiver index of what the peer sends."""
        self.remote_index = remote_index
        """The peer's: the receiver index of what we send."""
        self.is_initiator = is_initiator
        """Whether we sent the initiation: only then time makes us renew the session (§6.2)."""
        self.created_at = now
        self.created_unix = unix_now
        self.send_counter = 0
        """The next counter to send with."""
        self.replay = ReplayWindow()
        self.is_alive = True
        self.take_keys(send_key, receive_key)

    def take_keys(self, send_key: bytes, receive_key: bytes) -> None:
        """Begin to use them; a keypair whose packets are sealed elsewhere does not."""
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
