"""What people type and read (floor F6)."""
