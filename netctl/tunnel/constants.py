"""The paper's numbers (§6.1, §5.4) and our bounds. Times in seconds."""

from __future__ import annotations

REKEY_AFTER_MESSAGES = 1 << 60
REJECT_AFTER_MESSAGES = (1 << 64) - (1 << 13) - 1
REKEY_AFTER_TIME = 120.0
REJECT_AFTER_TIME = 180.0
REKEY_ATTEMPT_TIME = 90.0
REKEY_TIMEOUT = 5.0
KEEPALIVE_TIMEOUT = 10.0

REKEY_TIMEOUT_JITTER = 0.334
"""Largest random delay of a retry in seconds, so that two sides that start at once do not go on colliding (§6.4)."""
MAX_HANDSHAKE_RETRIES = int(REKEY_ATTEMPT_TIME / REKEY_TIMEOUT)
NEW_HANDSHAKE_AFTER = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT
"""After data was sent and nothing received for this long, the session counts as dead (§6.5)."""
REKEY_AFTER_TIME_RECEIVING = REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT
"""An initiator that only receives renews the session at this age (§6.2)."""
ZERO_KEYS_AFTER = 3 * REJECT_AFTER_TIME
"""All key material is dropped when no new session was made for this long (§6.3)."""

UNPROMPTED_RATE = 500.0
"""Initiations a second to peers without waiting packets: a tenth of a core. With thousands of silent peers each is
tried less often than every REKEY_TIMEOUT, and peers with waiting packets never wait for the others.
"""
UNPROMPTED_BURST = 100.0
"""Such initiations sent at once before that rate applies."""
INITIATIONS_PER_SECOND = 50
"""Initiations accepted a second from one peer: more are a flood, even if authentic."""
TAI64N_BASE = (1 << 62) + 10
"""TAI64 label of the Unix epoch, ten leap seconds ahead as every WireGuard counts."""
TIMESTAMP_GRANULARITY_NS = 1 << 24
"""Our timestamps are rounded down to this (17 ms, under the peer's limit of 50/s): no clock fingerprint."""

COOKIE_SECRET_MAX_AGE = 120.0
COOKIE_MAX_AGE = COOKIE_SECRET_MAX_AGE - 5.0
"""Seconds that a received cookie is used: its maker may have made it 5 s before it arrived."""

UNDER_LOAD_RATE = 200.0
"""Handshake messages with a valid mac1 per second past which cookies are asked for: a tenth of a core."""
UNDER_LOAD_BURST = 1200.0
"""Such messages taken at once before the rate applies: a hub of 1,000 peers comes back without a cookie round."""
UNDER_LOAD_HOLD = 1.0
"""Under load lasts this long after the last message over the rate."""
SOURCE_RATE = 20.0
SOURCE_BURST = 5.0
"""Under load: messages a second, and at once, of one address (IPv6: /64) that has proved itself by cookie."""
MAX_LIMITED_SOURCES = 4096
"""Addresses that the limiter remembers; while it is full of recent ones, a new address gets no answer."""

WINDOW_SIZE = 8192
"""Counters that may arrive out of order (§5.4.6; the width every WireGuard uses)."""
MAX_STAGED_PACKETS = 128
"""Packets for each peer that wait for a handshake; the oldest are dropped, as a full device queue does."""
MAX_STAGED_BYTES = 1 << 20
"""Their bytes: a staged packet may be a super-packet of 64 KB."""
MAX_PEERS = 1 << 16
"""Peers per device: indices stay sparse in 32 bits, so a random one is free at the first try."""
LOOKUP_CACHE_SIZE = 4096
"""Addresses whose owner is remembered between changes of allowed IPs; emptied when full."""
MAX_PEERS_PER_TURN = 32
"""Peers whose timers one `handle_timer` serves: an initiation costs some 0.2 ms, during which packets wait."""
HEAP_SLACK = 64
"""Stale timer entries that are kept beside four per peer before the heap is rebuilt."""
