"""The WireGuard protocol, sans-IO (floor F2). Specification: Donenfeld, "WireGuard: Next Generation Kernel
Network Tunnel" (the paper).

How a shell drives it (`now`: monotonic seconds; `unix_now`: wall clock, for TAI64N and "latest handshake" only):

* a datagram of type 1-3 → ``device.handle_handshake(datagram, source, now, unix_now)`` → effects;
* type 4 → ``device.keypair(receiver_index, now)`` (None: drop silently) → open → ``keypair.replay.accept_one``
  or ``accept_run`` → ``peer.data_received(keypair, source, now, is_keepalive)`` once a batch → source check
  ``device.lookup(inner_source) is peer`` → TUN;
* a packet from the TUN → ``device.lookup(destination)`` → ``peer.sendable_keypair(now)``; None:
  ``device.stage(peer, packets, now)``; else ``keypair.reserve(n, now)``, seal, send, ``peer.data_sent(now, keypair)``;
* before every wait: ``device.next_timer()``; when it is ≤ now: ``device.handle_timer(now, unix_now)`` → effects.
  The hooks on a peer return nothing: what they call for (an initiation, a flush of staged packets) is due *at
  once* through `next_timer`, so a shell that looks at the timer after each batch needs no other rule.

Wiping of keys: Python cannot overwrite the immutable bytes that hashes and AEADs hand out. What is done: long-lived
secrets (chaining keys, preshared keys) are held in bytearrays and zeroed, AEAD and X25519 state lives in OpenSSL
objects that clear themselves when freed, and every reference to them is dropped at the moment the paper says
the key dies. Short-lived copies are left to the allocator, which may keep their bytes until it reuses them.
"""

from netctl.tunnel.device import Device
from netctl.tunnel.effects import Effect, FlushStaged, SendDatagram, SendKeepalive
from netctl.tunnel.peer import Keypair, Peer
from netctl.tunnel.replay import ReplayWindow

__all__ = [
    "Device",
    "Effect",
    "FlushStaged",
    "Keypair",
    "Peer",
    "ReplayWindow",
    "SendDatagram",
    "SendKeepalive",
]
