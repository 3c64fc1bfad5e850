"""The control connection's state machines, sans-IO (floor F2)."""
