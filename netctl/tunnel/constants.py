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
"""At most this is added to a retry, so that two sides that start at once do not go on colliding (§6.4)."""
MAX_HANDSHAKE_RETRIES = int(REKEY_ATTEMPT_TIME / REKEY_TIMEOUT)
NEW_HANDSHAKE_AFTER = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT
"""Data sent and nothing heard for this long: the session is taken for dead (§6.5)."""
REKEY_AFTER_TIME_RECEIVING = REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT
"""An initiator that only receives renews the session at this age (§6.2)."""
ZERO_KEYS_AFTER = 3 * REJECT_AFTER_TIME
"""All key material is dropped when no new session came for this long (§6.3)."""

UNPROMPTED_RATE = 500.0
"""Initiations sent per second to peers for which no packet waits: a tenth of a core. Thousands of peers that do not
answer are tried more rarely than every REKEY_TIMEOUT, and those with packets never wait behind them."""
UNPROMPTED_BURST = 100.0
"""And so many at once before that."""
INITIATIONS_PER_SECOND = 50
"""Initiations taken from one peer: more is a flood, even when authentic."""
TAI64N_BASE = (1 << 62) + 10
"""TAI64 label of the Unix epoch, ten leap seconds ahead as every WireGuard counts."""
TIMESTAMP_GRANULARITY_NS = 1 << 24
"""Our timestamps are rounded down to this (17 ms, under the peer's limit of 50/s): no clock fingerprint."""

COOKIE_SECRET_MAX_AGE = 120.0
COOKIE_MAX_AGE = COOKIE_SECRET_MAX_AGE - 5.0
"""A cookie received is used this long; its maker may have made it 5 s before it came."""

UNDER_LOAD_RATE = 200.0
"""Handshake messages with a valid mac1 per second past which cookies are asked for: a tenth of a core."""
UNDER_LOAD_BURST = 1200.0
"""Taken at once before that: a hub of 1,000 peers comes back without a cookie round."""
UNDER_LOAD_HOLD = 1.0
"""Under load lasts this long after the last message over the rate."""
SOURCE_RATE = 20.0
SOURCE_BURST = 5.0
"""Under load: messages per second, and at once, of one address (IPv6: /64) that has proved itself by cookie."""
MAX_LIMITED_SOURCES = 4096
"""Addresses that the limiter remembers; when full of fresh ones, new ones wait (they are told nothing)."""

WINDOW_SIZE = 8192
"""Counters that may arrive out of order (§5.4.6; the width every WireGuard uses)."""
MAX_STAGED_PACKETS = 128
"""Packets that wait for a handshake per peer: the newest; older ones are dropped, as a full device queue does."""
MAX_STAGED_BYTES = 1 << 20
"""And their bytes: staged packets may be super-packets of 64 KB."""
MAX_PEERS = 1 << 16
"""Peers per device: indices stay sparse in 32 bits, so a random one is free at the first try."""
LOOKUP_CACHE_SIZE = 4096
"""Addresses whose owner is remembered between changes of allowed IPs; emptied when full."""
MAX_PEERS_PER_TURN = 32
"""Peers whose timers one `handle_timer` serves: an initiation costs some 0.2 ms, and packets wait meanwhile."""
HEAP_SLACK = 64
"""Stale timer entries that are kept beside four per peer before the heap is rebuilt."""
