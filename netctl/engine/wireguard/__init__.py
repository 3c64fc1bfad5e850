"""WireGuard on this host: the kernel's own or a userspace one, and how each is asked."""
