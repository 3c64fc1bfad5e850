"""The host's own packet filter: read, understood, and opened where the document says so."""
