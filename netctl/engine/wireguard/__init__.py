"""Drivers for WireGuard on this host: the kernel's own and userspace engines."""
