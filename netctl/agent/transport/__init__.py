"""Transport to peers: paths on the host's real port, mapped ports, the relay over TLS, and tunnel status."""
