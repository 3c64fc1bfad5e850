"""The host's own packet filter: reads and interprets it, and opens it where the document says so."""
