"""The long-running half of netctl on a member (floor F4)."""
