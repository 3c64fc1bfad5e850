"""mac1, mac2 and cookies (paper §5.4.4, §5.4.7), and when to ask for them (§5.3).

A responder has a checker; an initiator has a generator for each peer. The load state decides whether a message with a
good mac1 is answered at once or must first prove its source address:

    state       enters when                                        a message with a good mac1 is
    calm        UNDER_LOAD_HOLD passed since the rate was over      taken
    under load  messages came faster than UNDER_LOAD_RATE           taken with a good mac2 within the source's
                (beyond a burst), or the shell said so              rate; else answered by a cookie reply,
                                                                    within that rate, too
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from netctl.model.addresses import SocketAddress
from netctl.tunnel import constants
from netctl.tunnel.messages import MACS_LEN, CookieReply, sender_index
from netctl.tunnel.primitives import HASH_LEN, MAC_LEN, XNONCE_LEN, hash_, mac, xopen, xseal

LABEL_MAC1 = b"mac1----"
LABEL_COOKIE = b"cookie--"
_NO_MAC = bytes(MAC_LEN)


class CookieChecker:
    """The responder's side. One secret, renewed every 2 minutes; no state per sender."""

    def __init__(self, public_key: bytes, rng: Callable[[int], bytes]) -> None:
        self._mac1_key = hash_(LABEL_MAC1, public_key)
        self._cookie_key = hash_(LABEL_COOKIE, public_key)
        self._rng = rng
        self._secret = bytearray(HASH_LEN)
        self._secret_at = float("-inf")

    def has_valid_mac1(self, datagram: bytes) -> bool:
        """Whether the sender of an initiation or response knows our public key."""
        mac1 = datagram[-MACS_LEN:-MAC_LEN]
        return hmac.compare_digest(mac1, mac(self._mac1_key, datagram[:-MACS_LEN]))

    def has_valid_mac2(self, datagram: bytes, source: SocketAddress, now: float) -> bool:
        """Whether that sender also receives packets at its source address: it holds our cookie."""
        if now - self._secret_at >= constants.COOKIE_SECRET_MAX_AGE:
            return False
        mac2 = mac(self._cookie(source), datagram[:-MAC_LEN])
        return hmac.compare_digest(datagram[-MAC_LEN:], mac2)

    def reply(self, datagram: bytes, source: SocketAddress, now: float) -> bytes:
        """The cookie reply to a message with a good mac1: 64 bytes, always shorter than the question."""
        if now - self._secret_at >= constants.COOKIE_SECRET_MAX_AGE:
            self._secret[:] = self._rng(HASH_LEN)
            self._secret_at = now
        nonce = self._rng(XNONCE_LEN)
        mac1 = datagram[-MACS_LEN:-MAC_LEN]
        sealed = xseal(self._cookie_key, nonce, self._cookie(source), mac1)
        return CookieReply(sender_index(datagram), nonce, sealed).encode()

    def wipe(self) -> None:
        """Zero the secret."""
        self._secret[:] = bytes(HASH_LEN)
        self._secret_at = float("-inf")

    def _cookie(self, source: SocketAddress) -> bytes:
        where = source.address.packed + source.port.to_bytes(2, "big")
        return mac(bytes(self._secret), where)


class CookieGenerator:
    """The initiator's side, one for each peer: adds macs to our messages and remembers the peer's cookie."""

    __slots__ = ("_cookie", "_cookie_at", "_cookie_key", "_last_mac1", "_mac1_key")

    def __init__(self, remote_static: bytes) -> None:
        self._mac1_key = hash_(LABEL_MAC1, remote_static)
        self._cookie_key = hash_(LABEL_COOKIE, remote_static)
        self._cookie = b""
        self._cookie_at = float("-inf")
        self._last_mac1: bytes | None = None

    def add_macs(self, message: bytes, now: float) -> bytes:
        """The message with mac1, and mac2 if a fresh cookie is held (zeros if not)."""
        mac1 = mac(self._mac1_key, message)
        self._last_mac1 = mac1
        fresh = now - self._cookie_at < constants.COOKIE_MAX_AGE
        return message + mac1 + (mac(self._cookie, message + mac1) if fresh else _NO_MAC)

    def consume(self, reply: CookieReply, now: float) -> bool:
        """Take the cookie of a reply to our last message. False, and nothing changed: it is not such a reply."""
        if self._last_mac1 is None:
            return False
        cookie = xopen(self._cookie_key, reply.nonce, reply.encrypted_cookie, self._last_mac1)
        if cookie is None:
            return False
        self._cookie, self._cookie_at, self._last_mac1 = cookie, now, None
        return True


class _Bucket:
    """A token bucket."""

    __slots__ = ("at", "tokens")

    def __init__(self, tokens: float, at: float) -> None:
        self.tokens, self.at = tokens, at

    def take(self, now: float, rate: float, burst: float) -> bool:
        self.tokens = min(burst, self.tokens + max(0.0, now - self.at) * rate)
        self.at = now
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


class LoadState:
    """Counts handshake messages and says when we are under load. See the table above."""

    def __init__(self) -> None:
        self._bucket = _Bucket(constants.UNDER_LOAD_BURST, 0.0)
        self._until = float("-inf")

    def count(self, now: float) -> None:
        """One message with a good mac1 came."""
        if not self._bucket.take(now, constants.UNDER_LOAD_RATE, constants.UNDER_LOAD_BURST):
            self.force(now)

    def force(self, now: float) -> None:
        """Be under load from now on, for UNDER_LOAD_HOLD."""
        self._until = now + constants.UNDER_LOAD_HOLD

    def is_under_load(self, now: float) -> bool:
        """Whether to ask for cookies."""
        return now < self._until


class SourceLimiter:
    """A rate per source address (IPv6: per /64). Bounded; forgets sources that have been quiet.

    `when_full`: the answer for a new source while there is no room to remember it. Sources with a proven cookie are
    then refused; sources without one may be forged, and all of them get a reply.
    """

    def __init__(self, *, when_full: bool = False) -> None:
        self._when_full = when_full
        self._buckets: dict[bytes | str, _Bucket] = {}
        self._swept_at = float("-inf")

    def allow(self, source: SocketAddress, now: float) -> bool:
        """Whether one more message of this source may be processed."""
        key = source.address.packed[:8] if source.is_ipv6 else source.host
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= constants.MAX_LIMITED_SOURCES and not self._sweep(now):
                return self._when_full
            bucket = self._buckets[key] = _Bucket(constants.SOURCE_BURST, now)
        return bucket.take(now, constants.SOURCE_RATE, constants.SOURCE_BURST)

    def _sweep(self, now: float) -> bool:
        """Forget sources whose bucket is full again; at most once per refill time, because the sweep costs time too."""
        full_after = constants.SOURCE_BURST / constants.SOURCE_RATE
        if now - self._swept_at < full_after:
            return False
        self._swept_at = now
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if now - bucket.at < full_after}
        return len(self._buckets) < constants.MAX_LIMITED_SOURCES

    def __len__(self) -> int:
        return len(self._buckets)
