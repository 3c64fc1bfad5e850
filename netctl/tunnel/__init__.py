"""The WireGuard protocol, sans-IO (floor F2)."""
