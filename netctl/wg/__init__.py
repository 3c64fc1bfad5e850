"""netctl-wg, a userspace WireGuard: the TUN device, UDP sockets and UAPI around netctl.tunnel (floor F3)."""
