"""The mediator's I/O around the core: TLS, UDP and storage (floor F3)."""
