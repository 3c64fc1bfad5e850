"""What carries packets to peers: paths on the host's real port, mapped ports, the relay, and what tunnels do."""
