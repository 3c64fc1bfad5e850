"""TLS, UDP and storage around the core (floor F3)."""
