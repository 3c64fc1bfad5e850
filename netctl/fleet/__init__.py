"""Rolling a document out to many hosts (floor F4)."""
