"""Files of this host: where they are, what they keep, and who may write them."""
