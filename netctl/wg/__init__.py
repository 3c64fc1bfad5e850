"""netctl-wg: TUN, UDP and UAPI around netctl.tunnel (floor F3)."""
