"""The lab: a small internet in network namespaces on one machine (floor F4)."""
