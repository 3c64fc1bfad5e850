"""The WireGuard port shared with the path manager, and UDP sockets beside it."""
