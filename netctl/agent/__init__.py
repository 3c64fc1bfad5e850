"""The agent: the daemon of netctl on a member (floor F4)."""
