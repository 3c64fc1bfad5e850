"""Files of netctl on this host: their locations, contents and locks."""
