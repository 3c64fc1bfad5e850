"""The command `netctl`: its options and its terminal output (floor F6)."""
