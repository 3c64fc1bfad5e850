"""Shares the WireGuard port with the path manager, and opens further UDP sockets for it."""
