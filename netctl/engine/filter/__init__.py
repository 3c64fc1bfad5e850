"""Our nftables tables: renders, loads and watches them, and counts the packets that they dropped."""
