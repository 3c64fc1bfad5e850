"""Our nftables tables: what they say, how they are loaded, and what they dropped."""
