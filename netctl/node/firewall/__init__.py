"""Predicts what the host's own firewall does to packets that the document allows."""
