"""Text to document to desired state, purely (floor F1)."""
